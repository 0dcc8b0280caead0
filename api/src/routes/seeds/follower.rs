//! `POST /configuration/{account}/seed/follower`: a seed, good once, for a follower. Whoever gets one may have
//! all that the cluster holds, so the operator names the accounts whose roles may be allowed it.

use std::time::Duration;

use conclave_domain::policy::parse_range;
use conclave_domain::rbac::seed_service;
use ipnet::IpNet;

use crate::authz;
use crate::context::{Answer, Call, wiped_bytes};
use crate::error::Refusal;
use crate::ports::{SeedOrder, SeedRefusal};
use crate::wire::query::Query;

/// How long a seed is good when nothing is said.
const MINUTES: u32 = 60;
/// Longest life of a seed: a week.
const MINUTES_MAX: u32 = 10_080;
/// Most names of a follower beside its group's.
const NAMES_MAX: usize = 32;

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let params = call.take_params().await?;
    let account = call.account()?.clone();
    let service = seed_service(&account);
    let user = call.user();
    let group = params.filled("follower_hostname").unwrap_or_default().to_owned();
    let named = params.filled("name").unwrap_or_else(|| label(&group)).to_owned();
    call.deed(
        "seed",
        "issue",
        vec![
            ("resource".into(), service.to_string()),
            ("name".into(), named.clone()),
            ("group".into(), group.clone()),
        ],
        format!("{user} was given a seed for the follower {named}"),
        format!("{user} tried to get a seed for the follower {named}"),
    );
    let caller = call.caller()?.role.clone();
    // Others' roles are not the account's to allow: what a seed opens is all accounts.
    if *caller.account() != account || !call.door.settings().seed_accounts.contains(&account) {
        return Err(Refusal::missing(&service));
    }
    let permit = call
        .check_write(|view, caller| authz::require(view.state, &caller.role, "execute", &service))
        .await?;
    if group.is_empty() {
        return Err(Refusal::Argument("follower_hostname".to_owned()));
    }
    let order = SeedOrder {
        role: permit.role().clone(),
        client_ip: call.client_ip.to_string(),
        name: named,
        group: Some(group),
        names: names(&params)?,
        cidr: cidr(&params)?,
        life: Duration::from_secs(u64::from(minutes(&params)?) * 60),
    };
    let seeds = call.door.seeds().ok_or(Refusal::unavailable("this node does not serve yet"))?;
    match seeds.issue(order).await {
        Ok(seed) => Ok(Answer::json_bytes(wiped_bytes(seed))),
        Err(SeedRefusal::Rejected(rejection)) => Err(rejection.into()),
        Err(SeedRefusal::Invalid(text)) => Err(Refusal::Unprocessable(text)),
        Err(SeedRefusal::Unavailable(text)) => Err(Refusal::unavailable(text)),
    }
}

/// The first label of a DNS name: what a follower is called that is not given another name.
fn label(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

fn names(params: &Query) -> Result<Vec<String>, Refusal> {
    let lists = params.values("names");
    let names: Vec<String> = lists
        .flat_map(|list| list.split(',').map(str::trim).map(str::to_owned).collect::<Vec<_>>())
        .filter(|name| !name.is_empty())
        .collect();
    if names.len() > NAMES_MAX {
        let found = names.len();
        let text = format!("names has {found} names: {NAMES_MAX} are allowed");
        return Err(Refusal::Unprocessable(text));
    }
    Ok(names)
}

fn cidr(params: &Query) -> Result<Vec<IpNet>, Refusal> {
    let ranges = params.values("cidr").map(parse_range);
    ranges.collect::<Result<_, _>>().map_err(|error| Refusal::Unprocessable(error.to_string()))
}

fn minutes(params: &Query) -> Result<u32, Refusal> {
    let Some(text) = params.filled("minutes") else { return Ok(MINUTES) };
    let minutes = text.trim().parse().ok().filter(|minutes| (1..=MINUTES_MAX).contains(minutes));
    minutes.ok_or_else(|| {
        Refusal::Unprocessable(format!("minutes is {text}: write a number from 1 to {MINUTES_MAX}"))
    })
}
