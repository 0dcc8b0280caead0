//! Between the authority and the state: makes what is due with the keys that the state holds, seals
//! what was made, and opens what a node presents.

use conclave_domain::certificates::{
    CLUSTER, CLUSTER_CA, Certificate, CertificateKey, EDGE_PREFIX, FOLLOWER_PREFIX, Origin,
    REQUEST_PREFIX, ROOT,
};
use conclave_domain::records::{FOUNDER, MemberRole};
use conclave_domain::state::State;
use conclave_domain::time::Timestamp;
use conclave_storage::seal::{Secret, Vault};
use zeroize::Zeroizing;

use super::authority::{Issued, cross_sign, make_intermediate, make_leaf, make_request, make_root};
use super::import::{self, Imported};
use super::plan::{self, Wanted};
use super::template::{LeafRole, Life, peer_name};
use super::{CertificateError, check};

/// The intermediates, by purpose: what nodes present, what stands at the edge, workloads.
const INTERMEDIATES: [&str; 3] = [CLUSTER_CA, "edge-ca", "workload-ca"];

/// A certificate that was just made, its key in the clear.
pub struct Made {
    key: CertificateKey,
    origin: Origin,
    issuer: Option<CertificateKey>,
    issued: Issued,
    life: Life,
    names: Vec<String>,
    configured: Vec<String>,
    nodes: Vec<String>,
    holders: Vec<u64>,
}

impl Made {
    fn authority(
        key: CertificateKey,
        signer: Option<CertificateKey>,
        issued: Issued,
        life: Life,
    ) -> Self {
        Self {
            key,
            origin: Origin::Internal,
            issuer: signer,
            issued,
            life,
            names: Vec::new(),
            configured: Vec::new(),
            nodes: Vec::new(),
            holders: Vec::new(),
        }
    }

    /// Its name and generation.
    pub fn key(&self) -> &CertificateKey {
        &self.key
    }

    /// The certificate with its key.
    pub fn issued(&self) -> &Issued {
        &self.issued
    }

    /// As the state keeps it.
    ///
    /// # Errors
    /// When the key cannot be sealed, or the system gives no randomness.
    pub fn seal(&self, vault: &Vault) -> Result<(CertificateKey, Certificate), CertificateError> {
        let private = Secret::new(self.issued.key_pem.as_bytes().to_vec());
        let mut chance = [0; 2];
        aws_lc_rs::rand::fill(&mut chance)
            .map_err(|error| CertificateError::Malformed(format!("randomness: {error}")))?;
        let certificate = Certificate {
            origin: self.origin,
            issuer: self.issuer.clone(),
            chain_pem: self.issued.certificate_pem.clone(),
            key: vault.seal_labelled(&self.key.seal_label(), &private)?,
            names: self.names.clone(),
            configured: self.configured.clone(),
            nodes: self.nodes.clone(),
            holders: self.holders.clone(),
            not_before: self.life.not_before,
            not_after: self.life.not_after,
            renew_at: match self.origin {
                Origin::Internal => self.life.renew_at(u16::from_be_bytes(chance)),
                Origin::Imported => self.life.replace_at(),
            },
        };
        Ok((self.key.clone(), certificate))
    }
}

fn first(name: &str) -> CertificateKey {
    CertificateKey { name: name.to_owned(), generation: 1 }
}

fn life_of(certificate: &Certificate) -> Life {
    Life { not_before: certificate.not_before, not_after: certificate.not_after }
}

/// The authority of a new cluster and the certificate of its founder, in the order in which they are
/// installed: the root first, the cluster certificate last.
///
/// # Errors
/// When a name cannot stand in a certificate.
pub fn found(
    cluster_id: &str,
    configured: &[String],
    hosts: &[String],
    now: Timestamp,
) -> Result<Vec<Made>, CertificateError> {
    let life = Life::of_root(now);
    let root = make_root(cluster_id, 1, life)?;
    let mut made = vec![Made::authority(first(ROOT), None, root.clone(), life)];
    let life = Life::of_intermediate(now);
    for name in INTERMEDIATES {
        let issued = make_intermediate(cluster_id, name, 1, &root, "", life)?;
        made.push(Made::authority(first(name), Some(first(ROOT)), issued, life));
    }
    let mut names = configured.to_vec();
    for host in hosts {
        if !names.contains(host) {
            names.push(host.clone());
        }
    }
    let life = Life::of_leaf(now);
    let roots = &root.certificate_pem;
    let issued = make_leaf(cluster_id, LeafRole::Voter, &names, &made[1].issued, roots, life, now)?;
    made.push(Made {
        key: first(CLUSTER),
        origin: Origin::Internal,
        issuer: Some(first(CLUSTER_CA)),
        issued,
        life,
        names,
        configured: configured.to_vec(),
        nodes: Vec::new(),
        holders: vec![FOUNDER],
    });
    Ok(made)
}

/// Makes certificates from what a state holds.
pub struct Maker<'a> {
    /// The cluster.
    pub cluster_id: &'a str,
    /// The state.
    pub state: &'a State,
    /// Opens its keys.
    pub vault: &'a Vault,
    /// The time.
    pub now: Timestamp,
}

impl Maker<'_> {
    /// The certificate of that key with its private key.
    ///
    /// # Errors
    /// When it is not there, or does not open.
    pub fn open(&self, key: &CertificateKey) -> Result<Issued, CertificateError> {
        let record = self.state.certificate_of(key);
        let record = record.ok_or_else(|| absent(&key.to_string()))?;
        open(self.vault, key, &record.certificate)
    }

    /// The next generation of a leaf or of an intermediate.
    ///
    /// # Errors
    /// When what signs it does not open or has ended, or a name cannot stand in a certificate.
    pub fn next(&self, name: &str, configured: &[String]) -> Result<Made, CertificateError> {
        let (key, record) = self.state.certificate(name).ok_or_else(|| absent(name))?;
        let key = CertificateKey { generation: key.generation + 1, ..key.clone() };
        if record.certificate.issuer.as_ref().is_some_and(|issuer| issuer.name == ROOT) {
            let root = self.root_in_use()?;
            return self.intermediate(key, root, &links_of(&record.certificate.chain_pem)?);
        }
        let wanted = plan::wanted(self.state, name, &record.certificate, configured);
        self.leaf(key, wanted, record.certificate.nodes.clone())
    }

    /// What a follower is to present: the newest certificate of its group where that promises it to
    /// this node already, else the next generation, which does.
    ///
    /// # Errors
    /// As [`Maker::next`].
    pub fn for_follower(
        &self,
        node: &str,
        group: &str,
        names: &[String],
    ) -> Result<Option<Made>, CertificateError> {
        let name = format!("{FOLLOWER_PREFIX}{group}");
        let before = self.state.certificate(&name);
        let mut configured = vec![group.to_owned()];
        let mut nodes = Vec::new();
        let mut holders = Vec::new();
        if let Some((_, record)) = before {
            let certificate = &record.certificate;
            let is_promised = certificate.nodes.iter().any(|promised| promised == node);
            if is_promised && names.iter().all(|name| certificate.names.contains(name)) {
                return Ok(None);
            }
            nodes.clone_from(&certificate.nodes);
            configured.clone_from(&certificate.configured);
            holders.clone_from(&certificate.holders);
        }
        if !nodes.iter().any(|known| known == node) {
            nodes.push(node.to_owned());
        }
        for name in names {
            if !configured.contains(name) {
                configured.push(name.clone());
            }
        }
        let carried = before.map_or(&[][..], |(_, record)| record.certificate.names.as_slice());
        let mut all = configured.clone();
        all.extend(carried.iter().filter(|name| !configured.contains(name)).cloned());
        let generation = before.map_or(0, |(key, _)| key.generation) + 1;
        let wanted = Wanted { names: all, configured, holders, role: LeafRole::Follower };
        self.leaf(CertificateKey { name, generation }, wanted, nodes).map(Some)
    }

    /// What was brought from outside for names at the edge, in the place of what stands there under
    /// that name.
    ///
    /// # Errors
    /// When the name is none, or one of its host names is another's already.
    pub fn imported(&self, name: &str, imported: Imported) -> Result<Made, CertificateError> {
        let refuse = |why: String| Err(CertificateError::Refused(why));
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        };
        if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
            return refuse(format!("{name:?}: a name is up to 63 of a-z, 0-9, . and -"));
        }
        let name = format!("{EDGE_PREFIX}{name}");
        let others = self
            .state
            .certificates()
            .filter(|(key, _)| key.name.starts_with(EDGE_PREFIX) && key.name != name);
        for (key, record) in others {
            let theirs = &record.certificate.names;
            if let Some(both) = imported.names.iter().find(|host| theirs.contains(host)) {
                return refuse(format!("{both} is in {} already; remove that first", key.name));
            }
        }
        let generation = self.state.certificate(&name).map_or(0, |(key, _)| key.generation) + 1;
        Ok(Made {
            key: CertificateKey { name, generation },
            origin: Origin::Imported,
            issuer: None,
            life: Life { not_before: imported.not_before, not_after: imported.not_after },
            configured: imported.names.clone(),
            names: imported.names,
            issued: imported.issued,
            nodes: Vec::new(),
            holders: Vec::new(),
        })
    }

    /// A request for an authority outside, in the place of one that was made before.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn request(&self) -> Result<Made, CertificateError> {
        let issued = make_request(self.cluster_id, CLUSTER_CA)?;
        Ok(self.outside(&request_name(), issued, Life::of_leaf(self.now)))
    }

    /// What an authority outside has made of the request. Under a root that is trusted already it is in
    /// force at once; else it waits until all trust the root.
    ///
    /// # Errors
    /// When there is no request, or what was brought does not do for all names that nodes need.
    pub fn signed(&self, chain_pem: &str, roots_pem: &str) -> Result<Vec<Made>, CertificateError> {
        let asked = self.state.certificate(&request_name());
        let (asked, _) = asked.ok_or_else(|| {
            let text = "nothing was asked for; begin with conclave cert request";
            CertificateError::Refused(text.to_owned())
        })?;
        let key_pem = self.open(asked)?.key_pem;
        let found = import::check_authority(chain_pem, &key_pem, roots_pem, self.now)?;
        let issued = Issued { certificate_pem: found.chain_pem.clone(), key_pem };
        self.try_authority(&issued, &found.root_pem)?;
        let known = self.state.certificates().find(|(key, record)| {
            let body = |pem: &str| pem.split_whitespace().collect::<String>();
            key.name == ROOT && body(&record.certificate.chain_pem) == body(&found.root_pem)
        });
        if let Some((root, _)) = known {
            let mut made = self.outside(CLUSTER_CA, issued, found.life);
            made.issuer = Some(root.clone());
            return Ok(vec![made]);
        }
        let root = Issued { certificate_pem: found.root_pem, key_pem: Zeroizing::default() };
        Ok(vec![
            self.outside(ROOT, root, found.root_life),
            self.outside(&request_name(), issued, found.life),
        ])
    }

    /// Signs one with it, for nothing but to see whether it would be taken.
    fn try_authority(&self, signer: &Issued, root_pem: &str) -> Result<(), CertificateError> {
        let life = Life::of_leaf(self.now);
        for (key, record) in self.state.certificates() {
            let is_follower = key.name.starts_with(FOLLOWER_PREFIX);
            if key.name != CLUSTER && !is_follower {
                continue;
            }
            let role = if is_follower { LeafRole::Follower } else { LeafRole::Voter };
            let mut names = record.certificate.names.clone();
            let id = self.cluster_id;
            let leaf = make_leaf(id, role, &names, signer, root_pem, life, self.now)?;
            names.push(peer_name(id));
            import::judge(&leaf.certificate_pem, root_pem, &names, self.now)?;
        }
        Ok(())
    }

    fn outside(&self, name: &str, issued: Issued, life: Life) -> Made {
        let generation = self.state.certificate(name).map_or(0, |(key, _)| key.generation) + 1;
        let key = CertificateKey { name: name.to_owned(), generation };
        Made { origin: Origin::Imported, ..Made::authority(key, None, issued, life) }
    }

    /// A leaf for a node whose own copy has ended, for itself alone and kept nowhere: with it the node
    /// reaches the others, or they it.
    ///
    /// # Errors
    /// As [`Maker::next`].
    pub fn stopgap(&self, role: MemberRole, node: &str) -> Result<Issued, CertificateError> {
        let presented = plan::presented_as(self.state, role, node);
        let (key, record) = presented.ok_or_else(|| absent(CLUSTER))?;
        let wanted = plan::wanted(self.state, &key.name, &record.certificate, &[]);
        self.leaf(key.clone(), wanted, Vec::new()).map(|made| made.issued)
    }

    /// Another root, for everybody to trust before anything hangs on it.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn next_root(&self) -> Result<Made, CertificateError> {
        let newest = self.state.certificate(ROOT).map_or(0, |(key, _)| key.generation);
        let life = Life::of_root(self.now);
        let root = make_root(self.cluster_id, newest + 1, life)?;
        let key = CertificateKey { name: ROOT.to_owned(), generation: newest + 1 };
        Ok(Made::authority(key, None, root, life))
    }

    /// All intermediates under that root. Their chains lead on to the root before it.
    ///
    /// # Errors
    /// As [`Maker::next`].
    pub fn use_root(&self, key: &CertificateKey) -> Result<Vec<Made>, CertificateError> {
        let is_ours = |key: &CertificateKey| {
            let record = self.state.certificate_of(key).ok_or_else(|| absent(ROOT))?;
            Ok::<_, CertificateError>(record.certificate.origin == Origin::Internal)
        };
        if !is_ours(key)? {
            let (asked, record) =
                self.state.certificate(&request_name()).ok_or_else(|| absent(CLUSTER_CA))?;
            let life = life_of(&record.certificate);
            let mut made = self.outside(CLUSTER_CA, self.open(asked)?, life);
            made.issuer = Some(key.clone());
            return Ok(vec![made]);
        }
        let older = self.root_in_use()?;
        let record = self.state.certificate_of(&older).ok_or_else(|| absent(ROOT))?;
        let life = Life::of_root(self.now).within(life_of(&record.certificate));
        let links = if is_ours(&older)? {
            let (root, older) = (self.open(key)?, self.open(&older)?);
            cross_sign(self.cluster_id, key.generation, &root, &older, life)?
        } else {
            String::new()
        };
        let intermediates = INTERMEDIATES.iter().map(|name| {
            let generation = self.state.certificate(name).map_or(0, |(key, _)| key.generation) + 1;
            let next = CertificateKey { name: (*name).to_owned(), generation };
            self.intermediate(next, key.clone(), &links)
        });
        intermediates.collect()
    }

    fn intermediate(
        &self,
        key: CertificateKey,
        root: CertificateKey,
        links_pem: &str,
    ) -> Result<Made, CertificateError> {
        let record = self.state.certificate_of(&root).ok_or_else(|| absent(ROOT))?;
        let life = Life::of_intermediate(self.now).within(life_of(&record.certificate));
        let signer = self.open(&root)?;
        let (name, generation) = (&key.name, key.generation);
        let issued =
            make_intermediate(self.cluster_id, name, generation, &signer, links_pem, life)?;
        Ok(Made::authority(key, Some(root), issued, life))
    }

    fn leaf(
        &self,
        key: CertificateKey,
        wanted: Wanted,
        nodes: Vec<String>,
    ) -> Result<Made, CertificateError> {
        let (signer, record) =
            self.state.certificate(CLUSTER_CA).ok_or_else(|| absent(CLUSTER_CA))?;
        let life = Life::of_leaf(self.now).within(life_of(&record.certificate));
        let issued = make_leaf(
            self.cluster_id,
            wanted.role,
            &wanted.names,
            &self.open(signer)?,
            &plan::roots_pem(self.state),
            life,
            self.now,
        )?;
        Ok(Made {
            key,
            origin: Origin::Internal,
            issuer: Some(signer.clone()),
            issued,
            life,
            names: wanted.names,
            configured: wanted.configured,
            nodes,
            holders: wanted.holders,
        })
    }

    /// The root that the intermediates hang on.
    fn root_in_use(&self) -> Result<CertificateKey, CertificateError> {
        let record = self.state.certificate(CLUSTER_CA).map(|(_, record)| record);
        let root = record.and_then(|record| record.certificate.issuer.clone());
        root.ok_or_else(|| absent(ROOT))
    }
}

/// Opens a certificate's private key.
///
/// # Errors
/// When it does not open.
pub fn open(
    vault: &Vault,
    key: &CertificateKey,
    certificate: &Certificate,
) -> Result<Issued, CertificateError> {
    let opened = vault.open_labelled(&key.seal_label(), &certificate.key)?;
    let key_pem = std::str::from_utf8(opened.expose_secret())
        .map_err(|error| check::malformed(&error))?
        .to_owned();
    Ok(Issued { certificate_pem: certificate.chain_pem.clone(), key_pem: Zeroizing::new(key_pem) })
}

fn request_name() -> String {
    format!("{REQUEST_PREFIX}{CLUSTER_CA}")
}

/// What follows the first certificate of a chain: PEM.
fn links_of(chain_pem: &str) -> Result<String, CertificateError> {
    const END: &str = "-----END CERTIFICATE-----";
    let end = chain_pem.find(END).ok_or_else(|| absent("its own chain"))?;
    Ok(chain_pem[end + END.len()..].trim_start().to_owned())
}

fn absent(what: &str) -> CertificateError {
    CertificateError::Refused(format!("the cluster has no certificate {what}"))
}

#[cfg(test)]
mod tests {
    use conclave_domain::certificates::{CertificateRecord, Condition};
    use conclave_domain::effect::{Effect, Row};
    use conclave_domain::records::Member;
    use conclave_storage::seal::{Keyring, RootKey};

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);
    const DAY: i64 = 86_400_000;

    struct World {
        state: State,
        vault: Vault,
    }

    impl World {
        fn founded() -> Self {
            let (root_key, keyring) = (RootKey::generate().unwrap(), Keyring::generate().unwrap());
            let mut world = Self { state: State::new(), vault: Vault::new(&root_key, &keyring) };
            let names = ["secrets.example.com".to_owned()];
            let made = found("c1", &names, &["n1.example.com".to_owned()], NOW).unwrap();
            world.install(&made);
            world.admit(1, "n1", MemberRole::Voter);
            world
        }

        fn install(&mut self, made: &[Made]) {
            for one in made {
                let (key, certificate) = one.seal(&self.vault).unwrap();
                let (installed_at, condition) = (NOW, Condition::Ready);
                let record = CertificateRecord { certificate, installed_at, condition };
                self.state.apply(&Effect::put(Row::Certificate(key, record)));
            }
        }

        fn admit(&mut self, id: u64, name: &str, role: MemberRole) {
            let member = Member {
                name: name.to_owned(),
                role,
                node_key: [1; 32],
                peer_address: format!("{name}.example.com:7443"),
                api_url: format!("https://{name}.example.com:8443"),
            };
            self.state.apply(&Effect::put(Row::Member(id, member)));
        }

        fn maker(&self, now: Timestamp) -> Maker<'_> {
            Maker { cluster_id: "c1", state: &self.state, vault: &self.vault, now }
        }

        fn checked(&self, chain_pem: &str, names: &[&str], now: Timestamp) {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let roots = plan::roots_pem(&self.state);
            check::cluster_certificate(&roots, chain_pem, &names, now).unwrap();
        }
    }

    #[test]
    fn what_the_state_holds_issues_the_next_generation() {
        let mut world = World::founded();
        world.admit(7, "n2", MemberRole::Voter);
        let made = world.maker(NOW).next(CLUSTER, &["lb2.example.com".to_owned()]).unwrap();
        let names = ["secrets.example.com", "lb2.example.com", "n1.example.com", "n2.example.com"];
        world.checked(&made.issued.certificate_pem, &names, NOW);
        assert_eq!((made.key.generation, made.holders.as_slice()), (2, &[1, 7][..]));
        world.install(&[made]);
        let (key, _) = world.state.certificate(CLUSTER).unwrap();
        let opened = world.maker(NOW).open(key).unwrap();
        assert!(opened.key_pem.contains("PRIVATE KEY"));
        let next = world.maker(NOW).next("edge-ca", &[]).unwrap();
        assert_eq!(next.issuer, Some(first(ROOT)));
    }

    #[test]
    fn a_node_whose_certificate_has_ended_bridges_the_gap_itself() {
        let world = World::founded();
        let later = Timestamp(NOW.0 + 400 * DAY);
        let made = world.maker(later).stopgap(MemberRole::Voter, "n1").unwrap();
        world.checked(&made.certificate_pem, &["n1.example.com"], later);
    }

    #[test]
    fn followers_of_a_group_share_a_certificate() {
        let mut world = World::founded();
        let ask = |world: &World, node: &str| {
            world.maker(NOW).for_follower(node, "readers.example.com", &[]).unwrap()
        };
        let made = ask(&world, "f1").unwrap();
        world.checked(&made.issued.certificate_pem, &["readers.example.com"], NOW);
        world.install(&[made]);
        assert!(ask(&world, "f1").is_none(), "it has been promised to f1 already");
        let made = ask(&world, "f2").unwrap();
        assert_eq!(
            (made.key.generation, made.nodes.as_slice()),
            (2, &["f1".to_owned(), "f2".to_owned()][..])
        );
    }

    /// A company's root, and what it makes of a request.
    struct Company {
        params: rcgen::CertificateParams,
        key: rcgen::KeyPair,
        pem: String,
    }

    impl Company {
        fn new() -> Self {
            let mut params =
                super::super::template::root("company", 1, Life::of_root(NOW)).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, "company root");
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            Self { params, key, pem }
        }

        fn sign(&self, request: &str, change: impl Fn(&mut rcgen::CertificateParams)) -> String {
            let mut request = rcgen::CertificateSigningRequestParams::from_pem(request).unwrap();
            let dated = super::super::template::root("", 1, Life::of_intermediate(NOW)).unwrap();
            request.params.not_before = dated.not_before;
            request.params.not_after = dated.not_after;
            request.params.use_authority_key_identifier_extension = true;
            change(&mut request.params);
            let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
            request.signed_by(&issuer).unwrap().pem()
        }
    }

    #[test]
    fn an_intermediate_signed_outside_comes_into_force_under_its_root_and_goes_again() {
        let mut world = World::founded();
        let company = Company::new();
        let bring = |world: &World, chain: &str, roots: &str| {
            world.maker(NOW).signed(chain, roots).map_err(|error| error.to_string())
        };
        let unasked = bring(&world, &company.pem, "").map(drop).unwrap_err();
        assert!(unasked.contains("nothing was asked for"), "{unasked}");

        let asked = world.maker(NOW).request().unwrap();
        let request = asked.issued.certificate_pem.clone();
        world.install(&[asked]);
        let signed = company.sign(&request, |_| {});
        let other =
            company.sign(&super::make_request("c1", CLUSTER_CA).unwrap().certificate_pem, |_| {});
        let no_ca = company.sign(&request, |params| params.is_ca = rcgen::IsCa::ExplicitNoCa);
        let elsewhere = company.sign(&request, |params| {
            let subtree = rcgen::GeneralSubtree::DnsName("elsewhere.org".to_owned());
            params.name_constraints = Some(rcgen::NameConstraints {
                permitted_subtrees: vec![subtree],
                excluded_subtrees: Vec::new(),
            });
        });
        for (chain, roots, reason) in [
            (&signed, "", "is missing: add"),
            (&other, &company.pem, "none of these was made of the request"),
            (&no_ca, &company.pem, "is no CA"),
            (&elsewhere, &company.pem, "for "),
        ] {
            let why = bring(&world, chain, roots).map(drop).unwrap_err();
            assert!(why.contains(reason), "{reason:?} expected: {why}");
        }

        let made = bring(&world, &signed, &company.pem).unwrap();
        let names: Vec<_> = made.iter().map(|made| made.key.to_string()).collect();
        assert_eq!(names, ["root, generation 2", "request/cluster-ca, generation 2"]);
        world.install(&made);
        let made = world.maker(NOW).use_root(made[0].key()).unwrap();
        assert_eq!(made.len(), 1);
        world.install(&made);
        let leaf = world.maker(NOW).next(CLUSTER, &[]).unwrap();
        let names = ["n1.example.com".to_owned()];
        check::cluster_certificate(&company.pem, &leaf.issued.certificate_pem, &names, NOW)
            .unwrap();
        // Another request under the same root is in force at once.
        let asked = world.maker(NOW).request().unwrap();
        let signed = company.sign(&asked.issued.certificate_pem, |_| {});
        world.install(&[asked]);
        let made = bring(&world, &signed, &company.pem).unwrap();
        assert_eq!(made[0].key.to_string(), "cluster-ca, generation 3");
        world.install(&made);

        let own = world.maker(NOW).next_root().unwrap();
        let (key, pem) = (own.key.clone(), own.issued.certificate_pem.clone());
        world.install(&[own]);
        let made = world.maker(NOW).use_root(&key).unwrap();
        assert_eq!(made.len(), INTERMEDIATES.len());
        world.install(&made);
        let leaf = world.maker(NOW).next(CLUSTER, &[]).unwrap();
        check::cluster_certificate(&pem, &leaf.issued.certificate_pem, &names, NOW).unwrap();
    }

    #[test]
    fn under_a_new_root_both_roots_lead_to_what_is_issued() {
        let mut world = World::founded();
        let old = plan::roots_pem(&world.state);
        let root = world.maker(NOW).next_root().unwrap();
        let new = root.issued.certificate_pem.clone();
        let key = root.key.clone();
        world.install(&[root]);
        let intermediates = world.maker(NOW).use_root(&key).unwrap();
        assert_eq!(intermediates.len(), INTERMEDIATES.len());
        world.install(&intermediates);
        let leaf = world.maker(NOW).next(CLUSTER, &[]).unwrap();
        for roots in [&old, &new] {
            check::cluster_certificate(roots, &leaf.issued.certificate_pem, &[], NOW).unwrap();
        }
        let renewed = world.maker(NOW).next(CLUSTER_CA, &[]).unwrap();
        assert_eq!(renewed.issuer, Some(key));
        assert_eq!(renewed.issued.certificate_pem.matches("BEGIN").count(), 2, "it leads on");
    }
}
