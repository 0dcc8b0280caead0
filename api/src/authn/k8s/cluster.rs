//! The interface of a Kubernetes cluster, as far as `authn-k8s` asks it: where it is, who asks, and
//! whether a pod is what is wanted of it.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use conclave_domain::id::ResourceId;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::request::PodName;
use super::wanted::{Maker, Namespace, Wanted};
use crate::authn::outbound::{CallError, Outbound, Target, pinned};
use crate::authn::variables::Variables;
use crate::authn::{Denied, StatusError};
use crate::context::Call;
use crate::error::Refusal;
use crate::settings::Kubernetes;

const URL: &str = "kubernetes/api-url";
const CA: &str = "kubernetes/ca-cert";
const TOKEN: &str = "kubernetes/service-account-token";
/// The variables that a cluster is reached by where this node is in none.
const VARIABLES: [&str; 3] = [URL, CA, TOKEN];
/// Largest answer that is read: what Kubernetes keeps of an object is less.
pub(super) const ANSWER_BYTES_MAX: usize = 2 << 20;
/// Largest file of a service account that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A cluster that can be asked.
pub(super) struct Cluster {
    base: String,
    pub(super) authorities: String,
    token: Zeroizing<String>,
}

impl Cluster {
    /// Where the cluster of a service is, and who asks: the one around this node, with what it is given
    /// there; otherwise the one that the service's variables name. What is given in a cluster is not sent
    /// to where a variable says. Read each time: Kubernetes renews the token every hour.
    pub(super) async fn read(call: &mut Call, webservice: &ResourceId) -> Result<Self, Denied> {
        let variables = Variables::read(call, webservice, &VARIABLES)?;
        let settings = call.door.settings().kubernetes.clone();
        let Kubernetes { api_url, service_account, .. } = settings;
        let unset = |code: &str, name: &str| {
            Denied::new(format!("{code} Variable '{name}' is not set, and no file is there for it"))
        };
        let mut files = (None, None);
        if api_url.is_some() {
            files.0 = file(&service_account.join("token")).await?;
            files.1 = file(&service_account.join("ca.crt")).await?;
        }
        let own = |name| variables.filled(name).map(|text| Zeroizing::new(text.to_owned()));
        let token = files.0.or_else(|| own(TOKEN)).ok_or_else(|| unset("CONJ00153E", TOKEN))?;
        let authorities = files.1.or_else(|| own(CA)).ok_or_else(|| unset("CONJ00043E", CA))?;
        pinned(&authorities).map_err(|why| {
            Denied::new(format!("CONJ00154E The authorities of the Kubernetes API: {why}"))
        })?;
        let base = api_url.or_else(|| variables.filled(URL).map(str::to_owned));
        let base = base.ok_or_else(|| unset("CONJ00042E", URL))?;
        let base = base.trim().trim_end_matches('/').to_owned();
        let cluster = Self { base, authorities: authorities.to_string(), token };
        cluster.target("/api")?;
        cluster.headers()?;
        Ok(cluster)
    }

    /// What is asked for a path.
    pub(super) fn target(&self, path: &str) -> Result<Target, Denied> {
        Target::parse(&format!("{}{path}", self.base)).map_err(|why| {
            Denied::new(format!("CONJ00042E The URL of the Kubernetes API cannot be used: {why}"))
        })
    }

    /// Who asks.
    pub(super) fn headers(&self) -> Result<HeaderMap, Denied> {
        let text = Zeroizing::new(format!("Bearer {}", self.token.trim()));
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            Denied::new("CONJ00153E The token for the Kubernetes API cannot stand in a header")
        })?;
        value.set_sensitive(true);
        Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
    }

    async fn ask(
        &self,
        outbound: &Outbound,
        path: &str,
    ) -> Result<Result<Bytes, CallError>, Denied> {
        let (target, headers) = (self.target(path)?, self.headers()?);
        let authorities = Some(&*self.authorities);
        Ok(outbound.ask(&target, headers, None, authorities, ANSWER_BYTES_MAX).await)
    }

    /// One object; the reason, with the code given, where there is none.
    async fn object<T: DeserializeOwned>(
        &self,
        outbound: &Outbound,
        path: &str,
        absent: &str,
    ) -> Result<T, Denied> {
        match self.ask(outbound, path).await? {
            Ok(answer) => serde_json::from_slice(&answer).map_err(|_| {
                in_trouble(&CallError::Answer("its answer is not what was asked for"))
            }),
            Err(CallError::Status(StatusCode::NOT_FOUND)) => {
                Err(Denied::new(format!("{absent} The Kubernetes API has no {path}")))
            }
            Err(error) => Err(in_trouble(&error)),
        }
    }

    /// Whether the cluster answers who asks.
    pub(super) async fn try_out(&self, outbound: &Outbound) -> Result<(), StatusError> {
        match self.ask(outbound, "/apis").await? {
            Ok(_list) => Ok(()),
            Err(error) => Err(in_trouble(&error).into()),
        }
    }

    /// Sees that a pod is there, alive, and what is wanted of it.
    pub(super) async fn check(
        &self,
        outbound: &Outbound,
        name: &PodName,
        wanted: &Wanted,
    ) -> Result<(), Denied> {
        let namespace = &name.namespace;
        // What costs no question comes first.
        if let Namespace::Named(known) = &wanted.namespace
            && known != namespace
        {
            return Err(Denied::new(format!(
                "CONJ00023E The pod's namespace '{namespace}' is not '{known}'"
            )));
        }
        if wanted.pod.as_ref().is_some_and(|pod| *pod != name.pod) {
            return Err(Denied::new(format!("CONJ00060E The pod '{}' is another one", name.pod)));
        }
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let path = format!("{pods}/{}", name.pod);
        let pod: Object = self.object(outbound, &path, "CONJ00024E").await?;
        let metadata = &pod.metadata;
        if metadata.name != name.pod || metadata.namespace != *namespace {
            return Err(in_trouble(&CallError::Answer("it answered with another pod")));
        }
        if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            let why = format!("CONJ00024E The pod '{}' has ended", name.pod);
            return Err(Denied::new(why));
        }
        if let Namespace::Labelled(labels) = &wanted.namespace {
            let path = format!("/api/v1/namespaces/{namespace}");
            let found: Object = self.object(outbound, &path, "CONJ00026E").await?;
            let has = |(key, value)| found.metadata.labels.get(key) == Some(value);
            if !labels.iter().map(|(key, value)| (key, value)).all(has) {
                return Err(Denied::new(format!(
                    "CONJ00083E The labels of namespace '{namespace}' are not those that are wanted"
                )));
            }
        }
        if let Some(account) = &wanted.service_account {
            if pod.spec.service_account_name != *account {
                return Err(Denied::new(format!(
                    "CONJ00061E The pod '{}' is not of service account '{account}'",
                    name.pod
                )));
            }
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}");
            let _there: Object = self.object(outbound, &path, "CONJ00026E").await?;
        }
        if let Some((maker, made_by)) = &wanted.maker {
            self.check_maker(outbound, &pod, *maker, made_by).await?;
        }
        let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
        if !containers.into_iter().any(|container| container.name == wanted.container) {
            return Err(Denied::new(format!(
                "CONJ00028E The pod '{}' has no container '{}'",
                name.pod, wanted.container
            )));
        }
        Ok(())
    }

    /// Sees that a pod was made by what it should be, from owner to owner. Each is known by its uid, so
    /// that none of the same name that is there now stands for one that was there before.
    async fn check_maker(
        &self,
        outbound: &Outbound,
        pod: &Object,
        maker: Maker,
        name: &str,
    ) -> Result<(), Denied> {
        let namespace = &pod.metadata.namespace;
        let (between, kind, last) = match maker {
            Maker::StatefulSet => (None, "StatefulSet", "/apis/apps/v1 statefulsets"),
            Maker::Deployment => {
                let between = Some(("ReplicaSet", "/apis/apps/v1 replicasets"));
                (between, "Deployment", "/apis/apps/v1 deployments")
            }
            Maker::DeploymentConfig => {
                let between = Some(("ReplicationController", "/api/v1 replicationcontrollers"));
                (between, "DeploymentConfig", "/apis/apps.openshift.io/v1 deploymentconfigs")
            }
        };
        let path = |place: &str, name: &str| {
            let (group, plural) = place.split_once(' ').unwrap_or_default();
            format!("{group}/namespaces/{namespace}/{plural}/{name}")
        };
        let missing = |object: &Object, kind: &str| {
            Denied::new(format!(
                "CONJ00062E '{}' in namespace '{namespace}' belongs to no {kind}",
                object.metadata.name
            ))
        };
        let mut made: Object = pod.clone();
        if let Some((kind, place)) = between {
            let owner = made.metadata.owner(kind).ok_or_else(|| missing(&made, kind))?.clone();
            let found: Object =
                self.object(outbound, &path(place, &owner.checked_name()?), "CONJ00026E").await?;
            if found.metadata.uid != owner.uid {
                return Err(missing(&made, kind));
            }
            made = found;
        }
        let owner = made.metadata.owner(kind).ok_or_else(|| missing(&made, kind))?.clone();
        if owner.name != name {
            return Err(Denied::new(format!(
                "CONJ00061E The pod '{}' does not belong to {kind} '{name}'",
                pod.metadata.name
            )));
        }
        let found: Object = self.object(outbound, &path(last, name), "CONJ00026E").await?;
        if found.metadata.uid != owner.uid {
            return Err(missing(&made, kind));
        }
        Ok(())
    }
}

/// The cluster is ill, or will not have this node ask: nothing that the client could have done
/// otherwise.
pub(super) fn in_trouble(error: &CallError) -> Denied {
    let hint = if *error == CallError::Status(StatusCode::UNAUTHORIZED) {
        "; is the service account's token in force?"
    } else if *error == CallError::Status(StatusCode::FORBIDDEN) {
        "; has the service account its role?"
    } else {
        ""
    };
    let why = format!("The Kubernetes API cannot be asked: {error}{hint}");
    Denied::with(not_the_clients(error), why)
}

/// What is answered for trouble that the client could not have avoided.
pub(super) fn not_the_clients(error: &CallError) -> Refusal {
    let is_slow = matches!(error, CallError::Slow(_));
    Refusal::Empty(if is_slow { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY })
}

/// A file that Kubernetes puts into a pod; nothing where it is not there.
async fn file(path: &Path) -> Result<Option<Zeroizing<String>>, Denied> {
    let unread = |why: std::io::Error| {
        Denied::new(format!("CONJ00153E The file {} cannot be read: {why}", path.display()))
    };
    let opened = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unread(error)),
    };
    let mut text = Zeroizing::new(String::new());
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).await.map_err(unread)?;
    Ok((!text.trim().is_empty()).then_some(text))
}

/// What is looked at in objects of every kind.
#[derive(Debug, Clone, Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    labels: BTreeMap<String, String>,
    owner_references: Vec<Owner>,
}

impl Metadata {
    /// The owner of a kind that looks after the object.
    fn owner(&self, kind: &str) -> Option<&Owner> {
        let mut owners = self.owner_references.iter();
        owners.find(|owner| owner.controller && owner.kind == kind && !owner.uid.is_empty())
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Owner {
    kind: String,
    name: String,
    uid: String,
    controller: bool,
}

impl Owner {
    /// Its name, which is going to stand in a path.
    fn checked_name(&self) -> Result<String, Denied> {
        if super::names::is_name(&self.name) {
            Ok(self.name.clone())
        } else {
            Err(in_trouble(&CallError::Answer("it names an owner as nothing is called")))
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}
