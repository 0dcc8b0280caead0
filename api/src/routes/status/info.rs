//! `GET /info`: release, role and authenticators, in the appliance's shape. Clients that find it
//! read the version from `services.possum`.

use serde_json::json;

use super::authenticators::configured;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::ports::Part;
use crate::settings::CONJUR_VERSION;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let door = call.door.clone();
    let registry = &door.registry;
    let (configured, enabled) =
        call.open_view(|view| Ok((configured(view), registry.enabled(view.state))))?;
    let part = door.proposer.part();
    let role = match part {
        Part::Leader => "master",
        Part::Standby | Part::Candidate | Part::Joining | Part::Stopped => "standby",
        Part::Follower => "follower",
    };
    Ok(Answer::json(&json!({
        "release": env!("CARGO_PKG_VERSION"),
        "version": door.settings().version,
        "services": {
            "possum": {
                "desired": "i",
                "status": "i",
                "err": null,
                "description": "Conclave server",
                "name": "conclave",
                "version": CONJUR_VERSION,
                "arch": std::env::consts::ARCH,
            },
        },
        "container": door.settings().node_name,
        "role": role,
        "part": part.as_str(),
        "configuration": {"conjur": {"role": role}},
        "authenticators": {
            "installed": door.registry.installed(),
            "configured": configured,
            "enabled": enabled,
        },
        "fips_mode": "disabled",
        "feature_flags": {},
    })))
}
