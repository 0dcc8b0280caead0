//! `ldap-sync show`, `apply` and `history`: people and groups of a directory as users and groups of a policy.

use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::api::{Api, Ask, segment};
use super::session;
use crate::cli::output::{self, Output};
use crate::exit::Failure;

/// How long a run may take: the server gives up after half a minute with a directory and ten seconds with the
/// change, and then says which it was.
const PATIENCE: Duration = Duration::from_mins(1);

/// What can be done with profiles of LDAP Sync.
#[derive(Debug, Subcommand)]
pub enum LdapSyncCommand {
    /// What a run would change now, as policy; changes nothing.
    Show(LdapSyncShowArgs),
    /// Run a profile.
    Apply(LdapSyncApplyArgs),
    /// The last runs of a profile.
    History(LdapSyncArgs),
}

/// Names a profile.
#[derive(Debug, Args)]
pub struct LdapSyncArgs {
    /// The profile: what follows conjur/ldap-sync/ in its webservice's id.
    profile: String,
}

/// Arguments of `ldap-sync show`.
#[derive(Debug, Args)]
pub struct LdapSyncShowArgs {
    #[command(flatten)]
    profile: LdapSyncArgs,
    /// Print the whole policy that the directory makes, not what of it is not so yet.
    #[arg(long)]
    whole: bool,
}

/// Arguments of `ldap-sync apply`.
#[derive(Debug, Args)]
pub struct LdapSyncApplyArgs {
    #[command(flatten)]
    profile: LdapSyncArgs,
    /// Take away more than the profile's guard allows, too.
    #[arg(long)]
    force: bool,
}

impl LdapSyncArgs {
    fn path(&self, api: &Api) -> String {
        format!("/ldap-sync/{}/{}", segment(api.account()), segment(&self.profile))
    }
}

/// `conclave ldap-sync …`.
///
/// # Errors
/// When the server refuses, the directory gives no answer, or the guard stops the run.
pub async fn ldap_sync(command: LdapSyncCommand, output: Output) -> Result<(), Failure> {
    match command {
        LdapSyncCommand::Show(args) => {
            let answer = session::ask(|api| {
                Ok(Ask::new(Method::GET, args.profile.path(api)).patience(PATIENCE))
            })
            .await?
            .success()?;
            output::document(&answer, output, |draft| shown(draft, args.whole))
        }
        LdapSyncCommand::Apply(args) => {
            let answer = session::ask(|api| {
                let ask = Ask::new(Method::POST, args.profile.path(api)).patience(PATIENCE);
                Ok(ask.query_opt("force", args.force.then_some("true")))
            })
            .await?
            .success()?;
            output::document(&answer, output, told)
        }
        LdapSyncCommand::History(args) => {
            let answer = session::get(|api| Ok(format!("{}/runs", args.path(api)))).await?;
            output::document(&answer, output, |runs| {
                let runs = runs.as_array().into_iter().flatten();
                let rows: Vec<Vec<String>> =
                    runs.map(|run| vec![text(&run["at"]), text(&run["by"]), told(run)]).collect();
                output::table(&rows)
            })
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A run in one line.
fn told(run: &Value) -> String {
    let outcome = text(&run["outcome"]);
    match run["reason"].as_str() {
        Some(reason) => format!("{outcome}: {reason}"),
        None => format!(
            "{outcome}: {} created, {} updated, {} removed, of {} users and {} groups; {} left out",
            run["created"],
            run["updated"],
            run["removed"],
            run["people"],
            run["groups"],
            run["skipped"]
        ),
    }
}

/// A draft: the policy on top, what it comes to below, as comments.
fn shown(draft: &Value, whole: bool) -> String {
    let mut out = text(&draft[if whole { "policy" } else { "changes" }]);
    for (name, mark) in [("created", "+"), ("updated", "~"), ("deleted", "-")] {
        for id in draft[name].as_array().into_iter().flatten() {
            out.extend(["# ", mark, " ", &text(id), "\n"]);
        }
    }
    for one in draft["skipped"].as_array().into_iter().flatten() {
        out.extend(["# left out: ", &text(&one["what"]), ": ", &text(&one["reason"]), "\n"]);
    }
    let count = |name: &str| draft[name].as_array().map_or(0, Vec::len).to_string();
    let totals = format!(
        "# {} users and {} groups; {} created, {} updated, {} disabled or deleted, {} memberships revoked\n",
        draft["people"],
        draft["groups"],
        count("created"),
        count("updated"),
        count("removed"),
        draft["revoked"]
    );
    out.push_str(&totals);
    if let Some(guard) = draft["guard"].as_str() {
        out.extend(["# guard: ", guard, "\n"]);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn drafts_and_runs_are_told_in_lines() {
        let draft = json!({
            "policy": "- !user a\n", "changes": "", "created": [], "updated": ["x:group:g"],
            "deleted": [], "removed": [], "revoked": 1, "people": 2, "groups": 3,
            "skipped": [{"what": "cn=a", "reason": "it has no uid"}], "guard": null,
        });
        let text = shown(&draft, false);
        assert!(
            text.starts_with("# ~ x:group:g\n# left out: cn=a: it has no uid\n# 2 users"),
            "{text}"
        );
        assert!(shown(&draft, true).starts_with("- !user a\n# ~"));
        let run = json!({"outcome": "failed", "reason": "the directory: gone"});
        assert_eq!(told(&run), "failed: the directory: gone");
    }
}
