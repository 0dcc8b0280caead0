//! nginx: the ceiling of HTTPS on this machine. It answers the same number of bytes from memory, without asking
//! who is there, deciding or recording anything.

use std::net::SocketAddr;

use super::{Running, Setting, Subject, Workload, until_ready, value_of};
use crate::load::Client;
use crate::process::{Daemon, free_ports};
use crate::scratch::Scratch;
use crate::tls::{self, Material, SERVER_NAME};
use crate::wire::{Endpoint, Protocol, Request};
use crate::{Fault, install, usage};

const NAME: &str = "nginx";

pub(super) async fn start(setting: Setting, scratch: &Scratch) -> Result<Subject, Fault> {
    if setting.workload != Workload::Read {
        return Err(Fault::Usage(format!("nginx has no workload `{}`", setting.workload)));
    }
    let program = install::nginx()?;
    let folder = scratch.folder(NAME)?;
    let material = Material::create(&folder)?;
    let [port] = free_ports()?;
    let value = value_of(setting.value_bytes, 1);
    let text = configuration(&folder.display().to_string(), port, &String::from_utf8_lossy(&value));
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text).map_err(Fault::path("write", &file))?;
    let arguments = ["-p", &folder.display().to_string(), "-c", &file.display().to_string()];
    let arguments = arguments.map(str::to_owned);
    let mut daemons = vec![Daemon::start(NAME, &folder, &program, &arguments)?];
    let endpoint = Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        name: SERVER_NAME.to_owned(),
        tls: tls::client_trusting(&material.ca)?,
    };
    until_ready(&mut daemons, async || endpoint.call("GET", "/", &[], b"").await.is_ok()).await?;
    let request = Request::http1("GET", SERVER_NAME, "/secret", &[], b"");
    let client = Client { endpoint, protocol: Protocol::Http1, requests: vec![request] };
    Ok(Subject {
        name: NAME,
        version: version(&program),
        setup: "static answer from memory over TLS, no authentication: a ceiling",
        processes: daemons.iter().map(Daemon::pid).collect(),
        asked: Vec::new(),
        clients: vec![client; setting.clients],
        counter: None,
        running: Running::Daemons(daemons),
    })
}

/// nginx prints its version to standard error.
fn version(program: &std::path::Path) -> String {
    let output = std::process::Command::new(program).arg("-v").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
    text.unwrap_or_default().trim().rsplit('/').next().unwrap_or_default().to_owned()
}

fn configuration(folder: &str, port: u16, value: &str) -> String {
    let workers = usage::cores();
    format!(
        "daemon off;\nworker_processes {workers};\npid {folder}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off;\n\
           keepalive_requests 1000000000;\n\
           keepalive_timeout 600s;\n\
           client_body_temp_path {folder}/body;\n\
           proxy_temp_path {folder}/proxy;\n\
           fastcgi_temp_path {folder}/fastcgi;\n\
           uwsgi_temp_path {folder}/uwsgi;\n\
           scgi_temp_path {folder}/scgi;\n\
           server {{\n\
             listen 127.0.0.1:{port} ssl;\n\
             ssl_certificate {folder}/server.pem;\n\
             ssl_certificate_key {folder}/server.key;\n\
             ssl_protocols TLSv1.2 TLSv1.3;\n\
             location / {{ default_type application/octet-stream; return 200 \"{value}\"; }}\n\
           }}\n\
         }}\n"
    )
}
