//! Loading policies: see `policy/`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]
#![expect(clippy::wildcard_enum_match_arm, reason = "only what loads make is looked at")]

mod policy;
