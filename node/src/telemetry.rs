//! Structured logs to standard error, as text for people or JSON for collectors. Spans carry the
//! request id; secrets never reach a log.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogConfig, LogFormat};

/// Starts logging for the process. A second call changes nothing.
pub fn start(config: &LogConfig) {
    let filter = match config.level.parse::<LevelFilter>() {
        Ok(level) => Targets::new()
            .with_default(level.min(LevelFilter::ERROR))
            .with_target("conclave", level),
        // Checked configuration parses; were it not so, the default is the useful answer.
        Err(_) => config.level.parse::<Targets>().unwrap_or_default(),
    };
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
    }
}
