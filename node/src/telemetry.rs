//! Structured logs to standard error, as text for people or JSON for collectors. Spans carry the
//! request id; secrets never reach a log.

use std::sync::OnceLock;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat};

/// Where the level can be changed.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging for the process. A second call changes nothing.
pub fn start(config: &LogConfig) {
    let (filter, handle) = reload::Layer::new(targets(&config.level));
    let layer = match config.format {
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    if tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().is_err() {
        tracing::debug!("logging was already started");
    } else if LEVEL.set(handle).is_err() {
        tracing::debug!("the level was given before");
    }
}

/// Logs at another level from now on.
pub fn change_level(level: &str) {
    let changed = LEVEL.get().map(|handle| handle.reload(targets(level)));
    if let Some(Err(error)) = changed {
        tracing::warn!(%error, level, "log.level stays as it was");
    }
}

/// A level is this program's, libraries then saying errors only; else it is a whole filter.
fn targets(level: &str) -> Targets {
    match level.parse::<LevelFilter>() {
        Ok(level) => Targets::new()
            .with_default(level.min(LevelFilter::ERROR))
            .with_target("conclave", level),
        // Checked configuration parses; were it not so, the default is the useful answer.
        Err(_) => level.parse::<Targets>().unwrap_or_default(),
    }
}
