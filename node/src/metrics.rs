//! The names, units and help of what the process itself measures.

use metrics::{Unit, describe_counter, describe_gauge};

/// Variables whose last rotation failed and has not worked since; on the leader, else 0.
pub const ROTATIONS_FAILING: &str = "conclave_rotation_failing";
/// Rotations tried, by outcome; on the leader.
pub const ROTATIONS: &str = "conclave_rotations_total";

/// Seconds that are left of the life of a certificate, by its name.
pub const CERTIFICATE_LEFT: &str = "conclave_certificate_seconds_left";
/// Generation of the certificate in force, by its name.
pub const CERTIFICATE_REVISION: &str = "conclave_certificate_revision";
/// Members that are to use a certificate and have not said that they loaded it, by its name.
pub const CERTIFICATE_LOADED: &str = "conclave_certificate_not_loaded";
/// Seconds by which a member's clock is ahead of the leader's, by node id.
pub const CLOCK_AHEAD: &str = "conclave_clock_ahead_seconds";
/// Records of the audit chain that an output has yet to go through.
pub const AUDIT_OUTPUT_LAG: &str = "conclave_audit_output_lag_records";

/// Tells the recorder what the names mean. Once, at start.
pub fn describe() {
    describe_gauge!(
        ROTATIONS_FAILING,
        Unit::Count,
        "Variables whose last rotation failed (leader only)"
    );
    describe_gauge!(CERTIFICATE_LEFT, Unit::Seconds, "What is left of a certificate's life");
    describe_gauge!(CERTIFICATE_REVISION, Unit::Count, "Generation of a certificate in force");
    describe_gauge!(
        CERTIFICATE_LOADED,
        Unit::Count,
        "Members that are to use a certificate and have not loaded it"
    );
    describe_gauge!(
        CLOCK_AHEAD,
        Unit::Seconds,
        "By how much a member's clock is ahead of the leader's"
    );
    describe_counter!(ROTATIONS, Unit::Count, "Rotations tried, by outcome (leader only)");
    describe_gauge!(
        AUDIT_OUTPUT_LAG,
        Unit::Count,
        "Records of the audit chain that are not known to be at an output, by output"
    );
}
