//! OpenBao: one node with integrated (Raft) storage, TLS, and the KV engine of version 2.
//!
//! Reads are by a token with a policy, not the root token. No audit device is enabled, which spares OpenBao what
//! Conclave does for every read. Logins are by AppRole with batch tokens: like Conclave's, they are not stored.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{KEYS_PER_CLIENT, Running, Setting, Subject, Workload, must, until_ready, value_of};
use crate::load::Client;
use crate::process::{Daemon, free_ports};
use crate::scratch::Scratch;
use crate::tls::{self, Material, SERVER_NAME};
use crate::wire::{Endpoint, Protocol, Request};
use crate::{Fault, install, process};

const NAME: &str = "openbao";
const POLICY: &str = r#"path "secret/data/*" { capabilities = ["create", "update", "read"] }"#;

pub(super) async fn start(setting: Setting, scratch: &Scratch) -> Result<Subject, Fault> {
    if let other @ (Workload::Jwt | Workload::Ldap) = setting.workload {
        let text = format!("openbao has no workload `{other}` to compare with");
        return Err(Fault::Usage(text));
    }
    if setting.workload == Workload::Write {
        return Err(Fault::Usage(
            "openbao runs here as one node: its writes have not the durability of three voters"
                .to_owned(),
        ));
    }
    let program = install::openbao()?;
    let folder = scratch.folder(NAME)?;
    let material = Material::create(&folder)?;
    let [port, cluster_port] = free_ports()?;
    let data = folder.join("data");
    std::fs::create_dir(&data).map_err(Fault::path("make", &data))?;
    let file = folder.join("openbao.hcl");
    let text = configuration(&folder.display().to_string(), port, cluster_port);
    std::fs::write(&file, text).map_err(Fault::path("write", &file))?;
    let arguments = ["server".to_owned(), format!("-config={}", file.display())];
    let mut daemons = vec![Daemon::start(NAME, &folder, &program, &arguments)?];
    let endpoint = Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        name: SERVER_NAME.to_owned(),
        tls: tls::client_trusting(&material.ca)?,
    };
    // Before it is initialised it answers 501 to this: up, and speaking.
    until_ready(&mut daemons, async || {
        endpoint.call("GET", "/v1/sys/health", &[], b"").await.is_ok()
    })
    .await?;
    let admin = initialise(&endpoint).await?;
    until_ready(&mut daemons, async || {
        let health = endpoint.call("GET", "/v1/sys/health", &[], b"").await;
        health.is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    let requests = match setting.workload {
        Workload::Authn => logins(&endpoint, &admin).await?,
        Workload::Read | Workload::Write | Workload::Jwt | Workload::Ldap => {
            reads(&endpoint, &admin, setting, &mut daemons).await?
        }
    };
    let clients = (0..setting.clients).map(|client| {
        // Clients begin at different keys.
        let mut requests = requests.clone();
        let begin = client * KEYS_PER_CLIENT % requests.len();
        requests.rotate_left(begin);
        Client { endpoint: endpoint.clone(), protocol: Protocol::Http1, requests }
    });
    let version = process::output_of(&program.to_string_lossy(), &["version"])
        .and_then(|text| text.split_ascii_whitespace().nth(1).map(str::to_owned))
        .unwrap_or_default();
    Ok(Subject {
        name: NAME,
        version,
        setup: "1 node, integrated storage, TLS, no audit device, HTTP/1.1",
        processes: daemons.iter().map(Daemon::pid).collect(),
        asked: Vec::new(),
        clients: clients.collect(),
        counter: None,
        running: Running::Daemons(daemons),
    })
}

fn configuration(folder: &str, port: u16, cluster_port: u16) -> String {
    format!(
        r#"
storage "raft" {{
  path = "{folder}/data"
  node_id = "bench"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file = "{folder}/server.pem"
  tls_key_file = "{folder}/server.key"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
log_level = "error"
ui = false
"#
    )
}

/// A token and the endpoint that it is for.
struct Admin(String);

impl Admin {
    async fn call(
        &self,
        endpoint: &Endpoint,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, Fault> {
        let text = body.to_string();
        let headers = [("X-Vault-Token", self.0.as_str()), ("Content-Type", "application/json")];
        let body = if body.is_null() { &b""[..] } else { text.as_bytes() };
        let answer = must(NAME, endpoint, method, path, &headers, body).await?;
        Ok(serde_json::from_slice(&answer).unwrap_or_default())
    }
}

fn text_at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// One key share, unsealed with it.
async fn initialise(endpoint: &Endpoint) -> Result<Admin, Fault> {
    let nobody = Admin(String::new());
    let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
    let keys = nobody.call(endpoint, "PUT", "/v1/sys/init", &shares).await?;
    let unseal = json!({ "key": text_at(&keys, "/keys_base64/0") });
    nobody.call(endpoint, "PUT", "/v1/sys/unseal", &unseal).await?;
    Ok(Admin(text_at(&keys, "/root_token")))
}

async fn reads(
    endpoint: &Endpoint,
    admin: &Admin,
    setting: Setting,
    daemons: &mut [Daemon],
) -> Result<Vec<Request>, Fault> {
    let engine = json!({ "type": "kv", "options": { "version": "2" } });
    admin.call(endpoint, "POST", "/v1/sys/mounts/secret", &engine).await?;
    let policy = json!({ "policy": POLICY });
    admin.call(endpoint, "PUT", "/v1/sys/policies/acl/bench", &policy).await?;
    let ask = json!({ "policies": ["bench"], "ttl": "1h" });
    let token = admin.call(endpoint, "POST", "/v1/auth/token/create", &ask).await?;
    let token = text_at(&token, "/auth/client_token");
    // A new KV engine upgrades itself first and refuses until it has.
    let probe = json!({ "data": { "value": "probe" } });
    until_ready(daemons, async || {
        admin.call(endpoint, "POST", "/v1/secret/data/probe", &probe).await.is_ok()
    })
    .await?;
    let mut requests = Vec::new();
    for number in 0..setting.clients * KEYS_PER_CLIENT {
        let path = format!("/v1/secret/data/bench/s{number}");
        let value = value_of(setting.value_bytes, number as u64);
        let body = json!({ "data": { "value": String::from_utf8_lossy(&value) } });
        admin.call(endpoint, "POST", &path, &body).await?;
        requests.push(Request::http1("GET", SERVER_NAME, &path, &[("X-Vault-Token", &token)], b""));
    }
    Ok(requests)
}

async fn logins(endpoint: &Endpoint, admin: &Admin) -> Result<Vec<Request>, Fault> {
    admin.call(endpoint, "POST", "/v1/sys/auth/approle", &json!({ "type": "approle" })).await?;
    let role = json!({ "token_type": "batch", "token_ttl": "8m" });
    admin.call(endpoint, "POST", "/v1/auth/approle/role/bench", &role).await?;
    let role_id =
        admin.call(endpoint, "GET", "/v1/auth/approle/role/bench/role-id", &Value::Null).await?;
    let path = "/v1/auth/approle/role/bench/secret-id";
    let secret_id = admin.call(endpoint, "POST", path, &json!({})).await?;
    let body = json!({
        "role_id": text_at(&role_id, "/data/role_id"),
        "secret_id": text_at(&secret_id, "/data/secret_id"),
    });
    let body = body.to_string();
    let path = "/v1/auth/approle/login";
    Ok(vec![Request::http1("POST", SERVER_NAME, path, &[], body.as_bytes())])
}
