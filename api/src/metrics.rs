//! Every metric of the door: name, unit and help in one place.

use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, Unit};

use crate::audit::SpoolStatus;
use crate::ports::ClusterStatus;
use crate::router::Route;

/// What sort of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in the Prometheus text.
    pub name: &'static str,
    /// What sort of number it is.
    pub sort: Sort,
    /// Its unit.
    pub unit: Unit,
    /// What it counts.
    pub help: &'static str,
}

const REQUESTS: Metric = Metric {
    name: "conclave_http_requests_total",
    sort: Sort::Counter,
    unit: Unit::Count,
    help: "Requests answered, by route and class of status.",
};
const DURATION: Metric = Metric {
    name: "conclave_http_request_duration_seconds",
    sort: Sort::Histogram,
    unit: Unit::Seconds,
    help: "Time from a request's header to its answer, by route.",
};
const AUDIT_WRITTEN: Metric = Metric {
    name: "conclave_audit_spool_written_records",
    sort: Sort::Gauge,
    unit: Unit::Count,
    help: "Number of the last audit record written to this node's spool.",
};
const AUDIT_SYNCED: Metric = Metric {
    name: "conclave_audit_spool_synced_records",
    sort: Sort::Gauge,
    unit: Unit::Count,
    help: "Number of the last audit record of this node's spool that is fsynced.",
};
const AUDIT_SHIPPED: Metric = Metric {
    name: "conclave_audit_spool_shipped_records",
    sort: Sort::Gauge,
    unit: Unit::Count,
    help: "Number of the last audit record of this node that is known to be in the audit chain.",
};
const AUDIT_LAG: Metric = Metric {
    name: "conclave_audit_spool_lag_records",
    sort: Sort::Gauge,
    unit: Unit::Count,
    help: "Audit records of this node that are not known to be in the audit chain.",
};
const AUDIT_CHAIN: Metric = Metric {
    name: "conclave_audit_chain_records",
    sort: Sort::Gauge,
    unit: Unit::Count,
    help: "Number of the last record in the audit chain, as this node has it.",
};
const APPLIED: Metric = Metric {
    name: "conclave_applied_index",
    sort: Sort::Gauge,
    unit: Unit::Count,
    help: "Index of the last log entry applied on this node.",
};
const LAG: Metric = Metric {
    name: "conclave_lag_entries",
    sort: Sort::Gauge,
    unit: Unit::Count,
    help: "Log entries known to be committed and not applied on this node.",
};

const SYNCS: Metric = Metric {
    name: crate::ldap_sync::RUNS,
    sort: Sort::Counter,
    unit: Unit::Count,
    help: "Runs of LDAP Sync, by outcome.",
};

/// Every metric of this crate, for documentation and tests.
pub const ALL: &[Metric] = &[
    REQUESTS,
    DURATION,
    AUDIT_WRITTEN,
    AUDIT_SYNCED,
    AUDIT_SHIPPED,
    AUDIT_LAG,
    AUDIT_CHAIN,
    APPLIED,
    LAG,
    SYNCS,
];

/// The classes of status that requests are counted by.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The meters, registered once, so that a request costs no look-up.
pub(crate) struct Meters {
    /// By the place of the route in the table; the last is for requests without one.
    routes: Vec<RouteMeters>,
    written: Gauge,
    synced: Gauge,
    shipped: Gauge,
    spool_lag: Gauge,
    chain: Gauge,
    applied: Gauge,
    lag: Gauge,
}

struct RouteMeters {
    requests: [Counter; 5],
    duration: Histogram,
}

impl RouteMeters {
    fn new(route: &'static str) -> Self {
        Self {
            requests: CLASSES
                .map(|class| metrics::counter!(REQUESTS.name, "route" => route, "status" => class)),
            duration: metrics::histogram!(DURATION.name, "route" => route),
        }
    }
}

impl Meters {
    pub(crate) fn new(routes: &'static [Route]) -> Self {
        for metric in ALL {
            match metric.sort {
                Sort::Counter => {
                    metrics::describe_counter!(metric.name, metric.unit, metric.help);
                }
                Sort::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
                Sort::Histogram => {
                    metrics::describe_histogram!(metric.name, metric.unit, metric.help);
                }
            }
        }
        let names = routes.iter().map(|route| route.name).chain(["none"]);
        Self {
            routes: names.map(RouteMeters::new).collect(),
            written: metrics::gauge!(AUDIT_WRITTEN.name),
            synced: metrics::gauge!(AUDIT_SYNCED.name),
            shipped: metrics::gauge!(AUDIT_SHIPPED.name),
            spool_lag: metrics::gauge!(AUDIT_LAG.name),
            chain: metrics::gauge!(AUDIT_CHAIN.name),
            applied: metrics::gauge!(APPLIED.name),
            lag: metrics::gauge!(LAG.name),
        }
    }

    /// Counts one answered request; `route` is its place in the table.
    pub(crate) fn request(&self, route: Option<usize>, status: StatusCode, took: Duration) {
        let last = self.routes.len() - 1;
        let meters = &self.routes[route.unwrap_or(last).min(last)];
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        meters.requests[class].increment(1);
        meters.duration.record(took.as_secs_f64());
    }

    /// Takes the readings that nothing pushes.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats; far below 2^53")]
    pub(crate) fn sample(&self, spool: &SpoolStatus, chain: u64, status: &ClusterStatus) {
        self.written.set(spool.written as f64);
        self.synced.set(spool.synced as f64);
        self.shipped.set(spool.chained as f64);
        self.spool_lag.set(spool.last.saturating_sub(spool.chained) as f64);
        self.chain.set(chain as f64);
        self.applied.set(status.applied as f64);
        self.lag.set(status.lag_entries() as f64);
    }
}
