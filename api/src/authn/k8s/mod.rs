//! `authn-k8s`: pods of a Kubernetes cluster. A client in a pod asks for a certificate, which is put
//! into the pod itself, so that only who is in there gets it; with that certificate it logs in. Each
//! time the cluster is asked whether the pod is what the host's annotations want.

mod cluster;
mod exec;
mod names;
mod request;
pub(super) mod review;
mod signer;
mod wanted;

use std::sync::Arc;

use conclave_domain::id::{AccountName, ResourceId, RoleId};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cert::shown;
use super::outbound::Outbound;
use super::variables::Variables;
use super::{
    Attempt, Authenticator, Denied, StatusError, Verdict, admit, annotations_of, webservice,
};
use crate::context::Call;
use crate::error::Refusal;
use cluster::Cluster;
use request::{CertificateRequest, full_name, host_by_name};
use signer::Authority;
use wanted::Wanted;

pub(crate) const NAME: &str = "authn-k8s";
const CA_VARIABLES: [&str; 2] = ["ca/cert", "ca/key"];
/// Largest certificate request that is looked at, in bytes.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Longest dotted prefix of a host's id.
const PREFIX_BYTES_MAX: usize = 1024;
/// The first part of the host's id, with dots for slashes.
const PREFIX: &str = "host-id-prefix";
/// Attempts that wait for clusters at once; more are answered 503.
const ASKING_MAX: usize = 64;

pub(crate) struct K8s {
    outbound: Arc<Outbound>,
    asking: Semaphore,
}

/// A request for a certificate that holds together, of a host that may be none yet.
pub(crate) struct Wish {
    request: CertificateRequest,
    name: String,
    pub(crate) role: RoleId,
}

impl Wish {
    /// Reads what a pod asks for.
    pub(crate) async fn read(call: &mut Call, attempt: &Attempt) -> Result<Self, Denied> {
        let body = call.take_body(REQUEST_BYTES_MAX).await?;
        let request = CertificateRequest::parse(&body)?;
        let mut prefixes = call.headers.get_all(PREFIX).iter();
        let prefix = prefixes.next().map(|value| value.to_str().unwrap_or("?").trim().to_owned());
        let is_fit = prefix.as_ref().is_none_or(|prefix| prefix.len() <= PREFIX_BYTES_MAX);
        if prefixes.next().is_some() || !is_fit {
            return Err(Denied::new(
                "CONJ00048E Host-Id-Prefix stands there twice, or is too long",
            ));
        }
        let service = attempt.service.as_deref().unwrap_or_default();
        let name = full_name(prefix.as_deref(), service, &request.common_name);
        let role = host_by_name(attempt.account()?, &name)?;
        Ok(Self { request, name, role })
    }
}

impl Authenticator for K8s {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move { Verdict::from(self.check(call, attempt).await) })
    }

    fn status<'a>(
        &'a self,
        call: &'a mut Call,
        webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.check_status(call, webservice))
    }
}

impl K8s {
    pub(crate) fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound, asking: Semaphore::new(ASKING_MAX) }
    }

    /// Puts a certificate into the pod that asks for it. The service is in force.
    pub(crate) async fn inject(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
        wish: &Wish,
    ) -> Result<(), Denied> {
        let (role, from) = (&wish.role, call.client_ip);
        call.open_view(|view| Ok(admit(view.state, role, webservice, Some(from))))??;
        let by_host = |denied: Denied| denied.of(role);
        let wanted = wanted(call, webservice, role)?;
        let variables = Variables::read(call, webservice, &CA_VARIABLES)?;
        let signer = Authority::read(&variables)?.signing(&variables, call.now)?;
        drop(variables);
        let _place = self.place()?;
        let cluster = Cluster::read(call, webservice).await?;
        let pod = &wish.request.pod;
        cluster.check(&self.outbound, pod, &wanted).await.map_err(by_host)?;
        let pem = signer.sign(&wish.request, &wish.name).map_err(by_host)?;
        let time_max = call.door.settings().kubernetes.exec_time_max;
        exec::put(&self.outbound, &cluster, pod, &wanted.container, &pem, time_max)
            .await
            .map_err(by_host)
    }

    async fn check(&self, call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
        let webservice = attempt.webservice()?;
        let chain = shown(call)?;
        let leaf =
            chain.first().ok_or(Denied::new("CONJ00029E No client certificate was shown"))?;
        let variables = Variables::read(call, &webservice, &CA_VARIABLES)?;
        let says = Authority::read(&variables)?.check(leaf, call.now)?;
        drop(variables);
        let account = attempt.account()?;
        let role = host_by_name(account, &says.common_name)?;
        let login = attempt.login.as_deref().unwrap_or_default();
        if super::host_of(account, login)? != role {
            let why = "CONJ00031E The client certificate is another host's";
            return Err(Denied::new(why));
        }
        // Whoever may not come in has the cluster asked nothing.
        let from = call.client_ip;
        call.open_view(|view| Ok(admit(view.state, &role, &webservice, Some(from))))??;
        let wanted = wanted(call, &webservice, &role)?;
        let _place = self.place()?;
        let cluster = Cluster::read(call, &webservice).await?;
        cluster.check(&self.outbound, &says.pod, &wanted).await.map_err(|no| no.of(&role))?;
        Ok(role)
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, Denied> {
        self.asking.try_acquire().map_err(|_| {
            let refusal = Refusal::unavailable("too many requests wait for Kubernetes");
            Denied::with(refusal, "Too many requests wait for Kubernetes")
        })
    }

    /// The authority can sign, and the cluster answers.
    async fn check_status(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<(), StatusError> {
        let variables = Variables::read(call, webservice, &CA_VARIABLES)?;
        drop(Authority::read(&variables)?.signing(&variables, call.now)?);
        drop(variables);
        let cluster = Cluster::read(call, webservice).await?;
        cluster.try_out(&self.outbound).await
    }
}

/// What a host's annotations want at a service.
fn wanted(call: &mut Call, webservice: &ResourceId, role: &RoleId) -> Result<Wanted, Denied> {
    let annotations = annotations_of(call, role, "authn-k8s/")?;
    let others = annotations_of(call, role, "kubernetes/")?;
    let container = others.into_iter().find(|(name, _)| name == "authentication-container-name");
    let service = webservice.identifier().rsplit('/').next().unwrap_or_default();
    let container = container.map(|(_, value)| value);
    Wanted::read(&annotations, container, service, role).map_err(|denied| denied.of(role))
}

/// The account of the hosts that ask at a service, since the path names none: the one that the operator
/// names, or the only one that has such a service.
pub(crate) fn account_of(call: &mut Call, service: &str) -> Result<AccountName, Denied> {
    if let Some(account) = &call.door.settings().kubernetes.account {
        return Ok(account.clone());
    }
    let found: Vec<AccountName> = call.open_view(|view| {
        let accounts = view.state.accounts().map(|(name, _)| name);
        let has = |name: &&AccountName| {
            webservice(name, NAME, Some(service))
                .is_some_and(|id| view.state.resource(&id).is_some())
        };
        Ok(accounts.filter(has).cloned().collect())
    })?;
    let named = full_service(service);
    match &found[..] {
        [account] => Ok(account.clone()),
        [] => Err(Denied::new(format!("CONJ00005E Webservice '{named}' not found"))),
        _ => Err(Denied::new(format!(
            "CONJ00008E Several accounts have a webservice '{named}'; set api.account"
        ))),
    }
}

fn full_service(service: &str) -> String {
    super::full_name(NAME, Some(service))
}
