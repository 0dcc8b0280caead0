//! The names, units and help of what the process itself measures.

use metrics::{Unit, describe_counter, describe_gauge};

/// Variables whose last rotation failed and has not worked since; on the leader, else 0.
pub const ROTATIONS_FAILING: &str = "conclave_rotation_failing";
/// Rotations tried, by outcome; on the leader.
pub const ROTATIONS: &str = "conclave_rotations_total";

/// Tells the recorder what the names mean. Once, at start.
pub fn describe() {
    describe_gauge!(
        ROTATIONS_FAILING,
        Unit::Count,
        "Variables whose last rotation failed (leader only)"
    );
    describe_counter!(ROTATIONS, Unit::Count, "Rotations tried, by outcome (leader only)");
}
