//! Stories in text: policies are loaded, things are asked, and each line says what must come of it.
//!
//! A line of `scenarios/*.txt` is a step, `→`, and the answer. Indented lines belong to the step above:
//! the text of a policy, or the rows that a `rows` step lists. `#` begins a remark. Ids lack their
//! account, which is `demo`. When answers differ, the test prints the lines that went otherwise; after
//! a change that is meant, `BLESS=1 cargo test -p conclave-domain --test scenarios` writes
//! the stories down as they went, for review. Steps:
//!
//! ```text
//! load POLICY append|update|replace as ROLE      loads the indented text
//! set VARIABLE VALUE as ROLE                     sets a secret
//! expire VARIABLE as ROLE
//! PRIVILEGE on RESOURCE as ROLE                  permitted, rejected forbidden, rejected not-found
//! see RESOURCE as ROLE                           visible, hidden
//! rotate ROLE as ROLE by token|credentials
//! password ROLE as ROLE by token|credentials
//! grant ROLE to ROLE as ROLE                     through the API, outside any policy
//! revoke ROLE from ROLE as ROLE
//! account NAME as ROLE                           creates an account; `node` is the operator
//! drop account NAME as ROLE                      deletes one
//! accounts                                       their names
//! tokens NUMBER.. of FACTORY for SECONDS [from RANGE] as ROLE   host factory tokens, by seed
//! void NUMBER as ROLE                            revokes a token
//! enrol HOST with NUMBER [from ADDRESS]
//! sweep as ROLE                                  forgets expired tokens
//! pass SECONDS                                   time passes
//! toggle WEBSERVICE on|off as ROLE
//! held by ROLE                                   its closure
//! permitted PRIVILEGE on RESOURCE                who may
//! versions RESOURCE                              of a secret or a policy
//! found NAME                                     admits the first member, as node 1
//! audit NODE from NUMBER [lost COUNT] TEXT.. as ROLE   a batch of audit records; `has` how far then
//! vouch NUMBER as ROLE                           a checkpoint at that record
//! trim NUMBER as ROLE                            forgets audit records before that one
//! chain                                          the audit chain, verified
//! revision                                       moved or same since the last such question
//! rows WORD                                      rows that name the word, all of them for `*`
//! ```

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use conclave_domain::audit::{AuditCheckpoint, AuditRecord, AuditTexts, ChainVerifier};
use conclave_domain::command::{Actor, Command, LoadMode, Proof};
use conclave_domain::effect::{Effect, Row};
use conclave_domain::evolve::execute;
use conclave_domain::id::Id;
use conclave_domain::outcome::{Outcome, Rejection, Reply};
use conclave_domain::policy::{LoadRequest, Rules, plan};
use conclave_domain::rbac::{self, Denial};
use conclave_domain::records::{
    Digest, Fingerprint, MemberRole, RequestId, Revision, Sealed, Version,
};
use conclave_domain::state::State;
use conclave_domain::time::{LogIndex, Timestamp};
use support::{account, api_key, envelope, id, member, signing_key};

#[test]
fn stories_go_as_told() {
    let mut differing = Vec::new();
    for (path, told) in stories() {
        let went = tell(&told);
        if went != told && std::env::var_os("BLESS").is_some() {
            fs::write(&path, went).unwrap();
        } else if went != told {
            differing.push(path.display().to_string());
            println!("{} went otherwise, from here on:", path.display());
            let mut lines = told.lines().zip(went.lines()).skip_while(|(one, two)| one == two);
            for (told, went) in lines.by_ref().take(5) {
                println!("told: {told}\nwent: {went}");
            }
        }
    }
    assert_eq!(differing, Vec::<String>::new());
}

fn stories() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// Carries out a story; answers its text with the answers that were really given.
fn tell(story: &str) -> String {
    let mut world = World::new();
    let mut text = String::new();
    let mut lines = story.lines().peekable();
    while let Some(line) = lines.next() {
        let mut block = String::new();
        while let Some(indented) = lines.next_if(|line| line.starts_with("    ")) {
            writeln!(block, "{}", &indented[4..]).unwrap();
        }
        let Some((step, _)) = line.split_once(" → ") else {
            writeln!(text, "{line}").unwrap();
            continue;
        };
        let answer = world.step(step.trim_end(), &block);
        let (answer, rows) = answer.split_once('\n').unwrap_or((&answer, ""));
        writeln!(text, "{step} → {answer}").unwrap();
        let shown = if step.starts_with("rows ") || step.starts_with("chain") {
            rows
        } else {
            block.trim_end_matches('\n')
        };
        for line in shown.lines() {
            writeln!(text, "{}", format!("    {line}").trim_end()).unwrap();
        }
    }
    text
}

/// When stories begin.
const START: Timestamp = Timestamp(1_700_000_000_000);

struct World {
    state: State,
    index: u64,
    now: Timestamp,
    revision: Revision,
    chain: BTreeMap<u64, AuditRecord>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            state: State::new(),
            index: 0,
            now: START,
            revision: Revision(0),
            chain: BTreeMap::new(),
        };
        let create = Command::CreateAccount {
            account: account("demo"),
            signing_key: signing_key("k1"),
            admin_key: api_key(1),
        };
        world.carry_out(Actor::Node, create).unwrap();
        world
    }

    fn carry_out(&mut self, actor: Actor, body: Command) -> Reply {
        self.carry_out_from(actor, "192.0.2.7", body)
    }

    fn carry_out_from(&mut self, actor: Actor, client_ip: &str, body: Command) -> Reply {
        self.index += 1;
        let mut asked = envelope(body);
        asked.actor = actor;
        asked.at = self.now;
        client_ip.clone_into(&mut asked.client_ip);
        asked.request_id = RequestId(u128::from(self.index).to_be_bytes());
        let execution = execute(&mut self.state, LogIndex(self.index), &asked);
        for effect in execution.effects {
            match effect {
                Effect::Put(row) => {
                    if let Row::AuditBlock(last, block) = *row {
                        self.chain.extend(block.records(last));
                    }
                }
                Effect::Delete(_) => {}
            }
        }
        let kept = self.chain.split_off(&self.state.audit_head().first);
        self.chain = kept;
        execution.reply
    }

    fn step(&mut self, step: &str, block: &str) -> String {
        let words: Vec<&str> = step.split_whitespace().collect();
        match words[..] {
            ["load", policy, mode, "as", role] => self.load(&id(policy), mode, &id(role), block),
            ["set", resource, value, "as", role] => {
                let mut fingerprint = [0; 16];
                fingerprint[..value.len()].copy_from_slice(value.as_bytes());
                self.ask(
                    role,
                    Command::SetSecret {
                        resource: id(resource),
                        value: Sealed(value.into()),
                        fingerprint: Fingerprint(fingerprint),
                    },
                )
            }
            ["expire", resource, "as", role] => {
                self.ask(role, Command::ExpireSecret { resource: id(resource) })
            }
            ["renew", resource, "after", version, "by", value, "for", seconds, "as", role] => {
                let mut fingerprint = [0; 16];
                fingerprint[..value.len()].copy_from_slice(value.as_bytes());
                self.ask(
                    role,
                    Command::RotateSecret {
                        resource: id(resource),
                        after: Version(version.parse().unwrap()),
                        value: Sealed(value.into()),
                        fingerprint: Fingerprint(fingerprint),
                        expires_at: self.in_seconds(seconds),
                    },
                )
            }
            ["due", resource] => self.due(&id(resource)),
            ["rotated"] => self.state.rotated().map(short).collect::<Vec<_>>().join(" "),
            ["rotate", target, "as", role, "by", proof] => {
                let proof = self.proof(role, proof);
                self.ask(role, Command::RotateApiKey { role: id(target), key: api_key(9), proof })
            }
            ["password", target, "as", role, "by", proof] => {
                let (proof, password_hash) = (self.proof(role, proof), "$hash".to_owned());
                self.ask(role, Command::ChangePassword { role: id(target), password_hash, proof })
            }
            ["grant", held, "to", member, "as", role] => {
                self.ask(role, Command::AddMember { role: id(held), member: id(member) })
            }
            ["revoke", held, "from", member, "as", role] => {
                self.ask(role, Command::RemoveMember { role: id(held), member: id(member) })
            }
            ["account", name, "as", role] => self.ask(
                role,
                Command::CreateAccount {
                    account: account(name),
                    signing_key: signing_key(name),
                    admin_key: api_key(3),
                },
            ),
            ["drop", "account", name, "as", role] => {
                self.ask(role, Command::DeleteAccount { account: account(name) })
            }
            ["accounts"] => {
                let names = self.state.accounts().map(|(name, _)| name.as_str());
                names.collect::<Vec<_>>().join(" ")
            }
            ["see", resource, "as", role] => {
                let visible = rbac::is_visible(&self.state, &id(role), &id(resource));
                if visible { "visible" } else { "hidden" }.to_owned()
            }
            ["tokens", numbers, "of", factory, "for", seconds, ref rest @ .., "as", role] => {
                let numbers = numbers.split(',').map(|number| api_key(number.parse().unwrap()));
                let (uses, rest) = match rest {
                    ["uses", uses, rest @ ..] => (Some(uses.parse().unwrap()), rest),
                    _ => (None, rest),
                };
                self.ask(
                    role,
                    Command::CreateHostFactoryTokens {
                        factory: id(factory),
                        tokens: numbers.collect(),
                        cidr: rest.iter().skip(1).map(|range| range.parse().unwrap()).collect(),
                        expires_at: self.in_seconds(seconds),
                        uses,
                    },
                )
            }
            ["void", number, "as", role] => {
                let digest = api_key(number.parse().unwrap()).digest;
                self.ask(role, Command::RevokeHostFactoryToken { digest })
            }
            ["enrol", host, "with", number, ref rest @ ..] => self.enrol(host, number, rest.get(1)),
            ["sweep", "as", role] => self.ask(role, Command::SweepHostFactoryTokens),
            ["pass", seconds] => {
                self.now = self.in_seconds(seconds);
                "ok".to_owned()
            }
            ["toggle", webservice, on, "as", role] => {
                let (webservice, enabled) = (id(webservice), on == "on");
                self.ask(role, Command::ToggleAuthenticator { webservice, enabled })
            }
            ["held", "by", role] => list(&rbac::closure(&self.state, &id(role))),
            ["permitted", privilege, "on", resource] => {
                list(&rbac::permitted_roles(&self.state, privilege, &id(resource)))
            }
            [privilege, "on", resource, "as", role] => {
                match rbac::authorize(&self.state, &id(role), privilege, &id(resource)) {
                    Ok(_permit) => "permitted".to_owned(),
                    Err(Denial::Forbidden) => "rejected forbidden".to_owned(),
                    Err(Denial::NotFound) => "rejected not-found".to_owned(),
                }
            }
            ["versions", resource] => self.versions(&id(resource)),
            ["revision"] => {
                let revision = self.state.account(&account("demo")).unwrap().revision;
                let before = std::mem::replace(&mut self.revision, revision);
                if before == revision { "same" } else { "moved" }.to_owned()
            }
            ["rows", word] => self.rows(word),
            ["found", name] => self.ask(
                "node",
                Command::AdmitMember { token: None, member: member(name, MemberRole::Voter) },
            ),
            ["audit", node, "from", first, ref texts @ .., "as", role] => {
                let (lost, texts) = match texts {
                    ["lost", lost, texts @ ..] => (lost.parse().unwrap(), texts),
                    texts => (0, texts),
                };
                let (node, first) = (node.parse().unwrap(), first.parse().unwrap());
                let texts = AuditTexts::packed(texts);
                self.ask(role, Command::ChainAudit { node, first, lost, texts })
            }
            ["vouch", number, "as", role] => {
                let number = number.parse().unwrap();
                let hash = self.chain.get(&number).map_or(Digest([0; 32]), |record| record.hash);
                let checkpoint = AuditCheckpoint { number, hash, ..support::checkpoint() };
                self.ask(role, Command::CheckpointAudit { checkpoint })
            }
            ["trim", first, "as", role] => {
                let first = first.parse().unwrap();
                let before = self.chain.get(&(first - 1));
                let base = before.map_or(Digest([0; 32]), |record| record.hash);
                self.ask(role, Command::TrimAudit { first, base })
            }
            ["chain"] => self.verified_chain(),
            _ => panic!("no such step: {step}"),
        }
    }

    fn load(&mut self, policy: &Id, mode: &str, role: &Id, text: &str) -> String {
        let mode = match mode {
            "append" => LoadMode::Append,
            "update" => LoadMode::Update,
            "replace" => LoadMode::Replace,
            _ => panic!("no such mode: {mode}"),
        };
        let rules = Rules::default();
        let request = LoadRequest { policy, mode, text, actor: role, rules };
        let plan = match plan(&self.state, &request) {
            Ok(plan) => plan,
            Err(error) => return format!("refused: {error}"),
        };
        let based_on = plan.based_on;
        let seal = |_: &Id, value: &str| (Sealed(value.into()), Fingerprint([7; 16]));
        let load = Command::LoadPolicy {
            policy: policy.clone(),
            mode,
            text: text.to_owned(),
            text_sha256: String::new(),
            changes: plan.into_sealed_changes(|_| api_key(2), seal),
            based_on,
        };
        answer(&self.carry_out(Actor::Role(role.clone()), load))
    }

    fn ask(&mut self, role: &str, command: Command) -> String {
        let actor = if role == "node" { Actor::Node } else { Actor::Role(id(role)) };
        answer(&self.carry_out(actor, command))
    }

    fn in_seconds(&self, seconds: &str) -> Timestamp {
        Timestamp(self.now.0 + 1000 * seconds.parse::<i64>().unwrap())
    }

    /// As the door asks: in the name of the token's factory.
    fn enrol(&mut self, host: &str, number: &str, from: Option<&&str>) -> String {
        let token = api_key(number.parse().unwrap()).digest;
        let factory = self.state.host_factory_token(&token).map(|token| token.factory.clone());
        let actor = Actor::Role(factory.unwrap_or_else(|| id("host_factory:unknown")));
        let annotations = vec![("os".to_owned(), "linux".to_owned())];
        let body = Command::EnrolHost { token, host: id(host), key: api_key(8), annotations };
        answer(&self.carry_out_from(actor, from.copied().unwrap_or_default(), body))
    }

    fn proof(&self, role: &str, proof: &str) -> Proof {
        match proof {
            "token" => Proof::Token,
            "credentials" => {
                let credential = self.state.credential(&id(role));
                Proof::Credentials(credential.map_or(api_key(0).digest, |one| one.api_key_digest))
            }
            _ => panic!("no such proof: {proof}"),
        }
    }

    fn versions(&self, resource: &Id) -> String {
        let secret = self.state.secret(resource).into_iter().flat_map(|one| one.versions.keys());
        let policy = self.state.policy_versions(resource).into_iter().flatten();
        let mut numbers: Vec<String> = secret.map(|one| one.0.to_string()).collect();
        numbers.extend(policy.map(|(number, _)| number.to_string()));
        if numbers.is_empty() { "none".to_owned() } else { numbers.join(" ") }
    }

    /// Of each version, in how many seconds it expires.
    fn due(&self, resource: &Id) -> String {
        let versions = self.state.secret(resource).into_iter().flat_map(|one| one.versions.iter());
        let texts = versions.map(|(version, record)| match record.expires_at {
            None => format!("v{} never", version.0),
            Some(at) => format!("v{} in {}", version.0, (at.0 - self.now.0) / 1000),
        });
        texts.collect::<Vec<_>>().join(", ")
    }

    fn verified_chain(&self) -> String {
        let head = self.state.audit_head();
        let mut verifier = ChainVerifier::new(head.first, head.base);
        let mut lines = Vec::new();
        for (number, record) in &self.chain {
            verifier.take(*number, record, |_| true).unwrap();
            let mut text = record.text.as_str();
            if record.node == 0 {
                text = "checkpoint";
            }
            lines.push(format!("{number}: {} of {} {text}", record.sequence, record.node));
        }
        verifier.finish(head.last, &head.hash).unwrap();
        format!("{} to {}\n{}", head.first, head.last, lines.join("\n"))
    }

    fn rows(&self, word: &str) -> String {
        let texts = self.state.rows().into_iter().filter_map(|row| row_text(&row));
        let wanted: Vec<String> = texts.filter(|text| word == "*" || text.contains(word)).collect();
        format!("{}\n{}", wanted.len(), wanted.join("\n"))
    }
}

fn row_text(row: &Row) -> Option<String> {
    let by = |policy: &Option<Id>| {
        policy.as_ref().map_or(String::new(), |policy| format!(" by {}", short(policy)))
    };
    Some(match row {
        Row::Role(id, record) => format!("role {}{}", short(id), by(&record.policy)),
        Row::Resource(id, record) => {
            format!("resource {} of {}{}", short(id), short(&record.owner), by(&record.policy))
        }
        Row::Membership(key, record) => {
            let how = if key.ownership { " own" } else { "" };
            let admin = if record.admin_option { " admin" } else { "" };
            let (role, member) = (short(&key.role), short(&key.member));
            format!("member {role} ← {member}{how}{admin}{}", by(&record.policy))
        }
        Row::Permission(key, record) => {
            let (resource, role) = (short(&key.resource), short(&key.role));
            format!("permit {} on {resource} to {role}{}", key.privilege, by(&record.policy))
        }
        Row::Annotation(id, name, record) => {
            format!("annotation {} {name}={}{}", short(id), record.value, by(&record.policy))
        }
        Row::Credential(role, record) => {
            let nets: Vec<String> = record.restricted_to.iter().map(ToString::to_string).collect();
            let password = if record.password_hash.is_some() { " password" } else { "" };
            format!("credential {} [{}]{password}", short(role), nets.join(" "))
        }
        Row::SecretVersion(id, version, _) => format!("secret {} v{}", short(id), version.0),
        Row::PolicyVersion(id, version, record) => {
            format!("policy {} v{version} by {}", short(id), short(&record.role))
        }
        Row::HostFactoryToken(digest, record) => {
            let nets: Vec<String> = record.cidr.iter().map(ToString::to_string).collect();
            let uses = record.uses_left.map(|uses| format!(" {uses} left")).unwrap_or_default();
            let (number, factory) = (digest.0[0], short(&record.factory));
            format!("token {number} of {factory} [{}]{uses}", nets.join(" "))
        }
        Row::AuthenticatorConfig(id, config) => {
            format!("authenticator {} {}", short(id), if config.enabled { "on" } else { "off" })
        }
        Row::Issuer(key, record) => format!("issuer {} {}", key.issuer, record.max_ttl),
        Row::Account(..)
        | Row::SecretValue(..)
        | Row::Keyring(_)
        | Row::JoinToken(..)
        | Row::Member(..)
        | Row::Answered(..)
        | Row::AuditBlock(..)
        | Row::AuditHead(_)
        | Row::AuditSource(..)
        | Row::Certificate(..)
        | Row::Level(_) => return None,
    })
}

fn answer(reply: &Reply) -> String {
    match reply {
        Ok(Outcome::Done) => "ok".to_owned(),
        Ok(Outcome::SecretSet { version, added: true }) => format!("ok v{}", version.0),
        Ok(Outcome::SecretSet { version, added: false }) => format!("unchanged v{}", version.0),
        Ok(Outcome::PolicyLoaded { version }) => format!("ok v{version}"),
        Ok(Outcome::MemberAdmitted { node }) => format!("ok node {node}"),
        Ok(Outcome::HostFactoryTokensIssued { digests }) => format!("ok {} tokens", digests.len()),
        Ok(Outcome::AuditAppended { last }) => format!("has {last}"),
        Err(Rejection::NotFound { .. }) => "rejected not-found".to_owned(),
        Err(Rejection::Forbidden { .. }) => "rejected forbidden".to_owned(),
        Err(Rejection::Unauthenticated) => "rejected unauthenticated".to_owned(),
        Err(Rejection::NoCredentials { .. }) => "rejected no-credentials".to_owned(),
        Err(other) => format!("rejected: {other}"),
    }
}

fn list(ids: &[Id]) -> String {
    ids.iter().map(short).collect::<Vec<_>>().join(" ")
}

fn short(id: &Id) -> String {
    id.to_string().trim_start_matches("demo:").to_owned()
}
