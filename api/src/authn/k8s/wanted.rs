//! What a host's annotations, or its id, want of the pod that logs in as it. Pure.

use conclave_domain::id::RoleId;

use super::names::{is_label, is_name, selector};
use crate::authn::Denied;

/// The container whose client is given a certificate, where nothing else is said.
const CONTAINER: &str = "authenticator";
const CONTAINER_NAME: &str = "authentication-container-name";
const NAMESPACE: &str = "namespace";
const NAMESPACE_SELECTOR: &str = "namespace-label-selector";
const SERVICE_ACCOUNT: &str = "service-account";
const POD: &str = "pod";

/// Where a pod has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Namespace {
    Named(String),
    /// Any whose labels are these.
    Labelled(Vec<(String, String)>),
}

/// What makes pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    Deployment,
    DeploymentConfig,
    StatefulSet,
}

impl Maker {
    /// By the name of an annotation, or of a part of an id, which has `_` for `-`.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "deployment" => Self::Deployment,
            "deployment-config" | "deployment_config" => Self::DeploymentConfig,
            "stateful-set" | "stateful_set" => Self::StatefulSet,
            _ => return None,
        })
    }
}

/// What a pod must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) namespace: Namespace,
    /// What has made it, by kind and name.
    pub(super) maker: Option<(Maker, String)>,
    pub(super) service_account: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) container: String,
}

impl Wanted {
    /// Reads the annotations of a host, by their names below `authn-k8s/`, and the container's name
    /// below `kubernetes/`; where they say nothing of a pod, the last three parts of the host's id do.
    pub(super) fn read(
        annotations: &[(String, String)],
        container: Option<String>,
        service: &str,
        role: &RoleId,
    ) -> Result<Self, Denied> {
        let mut wanted = Terms::default();
        for is_for_service in [false, true] {
            let mut named = Vec::new();
            for (name, value) in annotations {
                let own = name.strip_prefix(service).and_then(|rest| rest.strip_prefix('/'));
                match own {
                    Some(own) if is_for_service && !own.contains('/') => named.push((own, value)),
                    None if !is_for_service && !name.contains('/') => named.push((name, value)),
                    _ => {}
                }
            }
            for (name, value) in named {
                wanted.set(name, value.trim())?;
            }
        }
        let container = wanted.container.take().or(container);
        let container = container.unwrap_or_else(|| CONTAINER.to_owned());
        if !is_label(container.trim()) {
            return Err(Denied::new("CONJ00028E The container's annotation holds no name of one"));
        }
        let container = container.trim().to_owned();
        if wanted == Terms::default() {
            return Self::by_id(role, container);
        }
        wanted.check(container)
    }

    /// Reads the last three parts of an id: namespace, kind and name, where `*/*` is any pod there.
    fn by_id(role: &RoleId, container: String) -> Result<Self, Denied> {
        let parts: Vec<&str> = role.identifier().split('/').collect();
        let [.., namespace, kind, name] = parts[..] else {
            let why = "CONJ00048E Neither annotations nor the host's id say which pod it is";
            return Err(Denied::new(why));
        };
        let mut wanted = Terms { namespace: Some(namespace.to_owned()), ..Terms::default() };
        match (kind, name) {
            ("*", "*") => {}
            ("service_account" | SERVICE_ACCOUNT, _) => {
                wanted.service_account = Some(name.to_owned());
            }
            (POD, _) => wanted.pod = Some(name.to_owned()),
            _ => {
                let maker = Maker::named(kind).ok_or_else(|| {
                    let why = format!("CONJ00041E Kubernetes has no '{kind}' that makes pods");
                    Denied::new(why)
                })?;
                wanted.makers.push((maker, name.to_owned()));
            }
        }
        wanted.check(container)
    }
}

/// What was said, one by one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Terms {
    namespace: Option<String>,
    selector: Option<String>,
    makers: Vec<(Maker, String)>,
    service_account: Option<String>,
    pod: Option<String>,
    container: Option<String>,
}

impl Terms {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Denied> {
        let value = value.to_owned();
        match name {
            NAMESPACE => self.namespace = Some(value),
            NAMESPACE_SELECTOR => self.selector = Some(value),
            SERVICE_ACCOUNT => self.service_account = Some(value),
            POD => self.pod = Some(value),
            CONTAINER_NAME => self.container = Some(value),
            _ => {
                let maker =
                    Maker::named(name).filter(|_| !name.contains('_')).ok_or_else(|| {
                        Denied::new(format!("CONJ00050E Annotation '{name}' is nothing of a pod"))
                    })?;
                self.makers.retain(|(known, _)| *known != maker);
                self.makers.push((maker, value));
            }
        }
        Ok(())
    }

    fn check(self, container: String) -> Result<Wanted, Denied> {
        let namespace = match (self.namespace, self.selector) {
            (Some(name), None) if is_label(&name) => Namespace::Named(name),
            (Some(_), None) => {
                return Err(Denied::new("CONJ00023E What is wanted is no name of a namespace"));
            }
            (None, Some(text)) => Namespace::Labelled(selector(&text).ok_or_else(|| {
                Denied::new("CONJ00094E The selector is not labels as key=value, key=value")
            })?),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Denied::new(format!(
                    "CONJ00131E Exactly one of '{NAMESPACE}' and '{NAMESPACE_SELECTOR}' is needed"
                )));
            }
        };
        let mut makers = self.makers.into_iter();
        let maker = makers.next();
        if makers.next().is_some() {
            let why = "CONJ00055E Only one of 'deployment', 'deployment-config' and 'stateful-set' \
                       may be there";
            return Err(Denied::new(why));
        }
        let names = [maker.as_ref().map(|(_, name)| name), self.service_account.as_ref()];
        for name in names.into_iter().chain([self.pod.as_ref()]).flatten() {
            if !is_name(name) {
                return Err(Denied::new(format!(
                    "CONJ00026E '{name}' is no name that Kubernetes gives"
                )));
            }
        }
        let Self { service_account, pod, .. } = self;
        Ok(Wanted { namespace, maker, service_account, pod, container })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(id: &str, annotations: &[(&str, &str)]) -> Result<Wanted, String> {
        let role = format!("demo:host:{id}").parse().unwrap();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let annotations: Vec<_> = annotations.iter().map(own).collect();
        Wanted::read(&annotations, None, "dev", &role)
            .map_err(|denied| denied.reason.chars().take(10).collect())
    }

    fn code(id: &str, annotations: &[(&str, &str)]) -> String {
        read(id, annotations).err().unwrap_or_default()
    }

    fn plain() -> Wanted {
        Wanted {
            namespace: Namespace::Named("shop".to_owned()),
            maker: None,
            service_account: None,
            pod: None,
            container: "authenticator".to_owned(),
        }
    }

    #[test]
    fn annotations_for_the_service_come_first() {
        assert_eq!(read("a", &[("namespace", "shop")]), Ok(plain()));
        assert_eq!(read("a", &[("namespace", "x"), ("dev/namespace", "shop")]), Ok(plain()));
        assert_eq!(read("a", &[("dev/namespace", "shop"), ("namespace", "x")]), Ok(plain()));
        assert_eq!(read("a", &[("dev/namespace", "shop"), ("prod/colour", "x")]), Ok(plain()));
        let all = [
            ("dev/namespace-label-selector", "team=shop"),
            ("dev/deployment", "web"),
            ("dev/service-account", "web"),
            ("dev/pod", "web-0"),
            ("dev/authentication-container-name", "app"),
        ];
        let found = read("a", &all).unwrap();
        assert_eq!(found.maker, Some((Maker::Deployment, "web".to_owned())));
        assert_eq!(found.container, "app");
        let labels = vec![("team".to_owned(), "shop".to_owned())];
        assert_eq!(found.namespace, Namespace::Labelled(labels));
    }

    #[test]
    fn ids_of_hosts_say_it_where_annotations_do_not() {
        assert_eq!(read("apps/shop/*/*", &[]), Ok(plain()));
        let container = [("authentication-container-name", "authenticator")];
        assert_eq!(read("shop/*/*", &container), Ok(plain()));
        for (kind, maker) in [
            ("deployment", Maker::Deployment),
            ("deployment_config", Maker::DeploymentConfig),
            ("stateful_set", Maker::StatefulSet),
        ] {
            let found = read(&format!("apps/shop/{kind}/web"), &[]).unwrap();
            assert_eq!(found.maker, Some((maker, "web".to_owned())));
        }
        let found = read("shop/service_account/web", &[]).unwrap();
        assert_eq!(found.service_account.as_deref(), Some("web"));
        assert_eq!(read("shop/pod/web-0", &[]).unwrap().pod.as_deref(), Some("web-0"));
    }

    #[test]
    fn what_says_nothing_or_too_much_is_refused() {
        for (id, annotations, wanted) in [
            ("web", &[][..], "CONJ00048E"),
            ("a/b", &[], "CONJ00048E"),
            ("shop/colour/web", &[], "CONJ00041E"),
            ("shop/*/web", &[], "CONJ00041E"),
            ("*/*/*", &[], "CONJ00023E"),
            ("shop/deployment/*", &[], "CONJ00026E"),
            ("a", &[("dev/pod", "web")], "CONJ00131E"),
            ("a", &[("namespace", "x"), ("namespace-label-selector", "a=b")], "CONJ00131E"),
            ("a", &[("namespace", "")], "CONJ00023E"),
            ("a", &[("namespace", "*")], "CONJ00023E"),
            ("a", &[("namespace-label-selector", "")], "CONJ00094E"),
            ("a", &[("namespace-label-selector", "a!=b")], "CONJ00094E"),
            ("a", &[("namespace", "x"), ("dev/colour", "red")], "CONJ00050E"),
            ("a", &[("namespace", "x"), ("colour", "red")], "CONJ00050E"),
            ("a", &[("namespace", "x"), ("stateful_set", "red")], "CONJ00050E"),
            ("a", &[("namespace", "x"), ("deployment", "a"), ("stateful-set", "b")], "CONJ00055E"),
            ("a", &[("namespace", "x"), ("deployment", "")], "CONJ00026E"),
            ("a", &[("namespace", "x"), ("deployment", "../pods/a")], "CONJ00026E"),
            ("a", &[("namespace", "x"), ("service-account", "a/b")], "CONJ00026E"),
            ("a", &[("namespace", "x"), ("pod", "..")], "CONJ00026E"),
            ("a", &[("namespace", "x"), ("authentication-container-name", "")], "CONJ00028E"),
        ] {
            assert_eq!(code(id, annotations), wanted, "{id} {annotations:?}");
        }
    }
}
