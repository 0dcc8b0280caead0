//! A network of its own for each node: a namespace, joined to the others by a bridge. The harness
//! sits on the bridge too, with an address outside the nodes' half of the subnet, so that it still
//! reaches a node that is cut off from its peers.
//!
//! Recipe: `fault-model` section 3 and N3. Needs root, `ip` and `iptables`.

use std::net::{IpAddr, Ipv4Addr};

use super::shell::{HarnessError, Undo, run};

/// The bridge, the namespaces, and the harness's own link. All is undone on drop.
#[derive(Debug)]
pub struct Network {
    /// Distinguishes this run from others: a byte of the subnet and part of every name.
    subnet: u8,
    tag: String,
    nodes: u8,
    _undo: Undo,
}

impl Network {
    /// Makes namespaces for so many nodes, numbered from 1.
    ///
    /// # Errors
    /// Without root, or when `ip` refuses.
    pub fn create(nodes: u8) -> Result<Self, HarnessError> {
        let pid = std::process::id();
        let subnet = u8::try_from(pid % 250).unwrap_or(0) + 1;
        // Interface names have 15 characters at most.
        let tag = format!("cc{:x}", pid % 0x00ff_ffff);
        let mut undo = Undo::default();
        let hub = format!("{tag}hub");
        undo.run(&["ip", "netns", "add", &hub], &["ip", "netns", "del", &hub])?;
        run(&["ip", "-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        run(&["ip", "-n", &hub, "link", "set", "br0", "up"])?;
        let harness = format!("{tag}h");
        undo.run(
            &["ip", "link", "add", &harness, "type", "veth", "peer", "name", "up0", "netns", &hub],
            &["ip", "link", "del", &harness],
        )?;
        run(&["ip", "-n", &hub, "link", "set", "up0", "master", "br0", "up"])?;
        run(&["ip", "addr", "add", &format!("10.99.{subnet}.254/24"), "dev", &harness])?;
        run(&["ip", "link", "set", &harness, "up"])?;
        for node in 1..=nodes {
            let name = format!("{tag}n{node}");
            let link = format!("{tag}v{node}");
            undo.run(&["ip", "netns", "add", &name], &["ip", "netns", "del", &name])?;
            run(&[
                "ip", "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name,
            ])?;
            run(&["ip", "link", "set", &link, "netns", &hub])?;
            run(&["ip", "-n", &hub, "link", "set", &link, "master", "br0", "up"])?;
            run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
            run(&[
                "ip",
                "-n",
                &name,
                "addr",
                "add",
                &format!("10.99.{subnet}.{node}/24"),
                "dev",
                "eth0",
            ])?;
            run(&["ip", "-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(Self { subnet, tag, nodes, _undo: undo })
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: u8) -> String {
        format!("{}n{node}", self.tag)
    }

    /// The address of a node.
    pub fn address(&self, node: u8) -> IpAddr {
        Ipv4Addr::new(10, 99, self.subnet, node).into()
    }

    /// Cuts a node off from all its peers, both ways at once. The harness still reaches it.
    ///
    /// # Errors
    /// When `iptables` refuses.
    pub fn isolate(&self, node: u8) -> Result<(), HarnessError> {
        let peers = format!("10.99.{}.0/25", self.subnet);
        let rules = format!(
            "iptables -A INPUT -i eth0 -s {peers} -j DROP && \
             iptables -A OUTPUT -o eth0 -d {peers} -j DROP"
        );
        run(&["ip", "netns", "exec", &self.namespace(node), "sh", "-c", &rules]).map(drop)
    }

    /// Ends the isolation of a node.
    ///
    /// # Errors
    /// When `iptables` refuses.
    pub fn heal(&self, node: u8) -> Result<(), HarnessError> {
        let namespace = self.namespace(node);
        run(&[
            "ip",
            "netns",
            "exec",
            &namespace,
            "sh",
            "-c",
            "iptables -F INPUT && iptables -F OUTPUT",
        ])
        .map(drop)
    }

    /// Whether a node can open a TCP connection to any of its peers: the proof that a cut cuts
    /// and that a healed network is whole.
    pub fn reaches_a_peer(&self, node: u8, port: u16) -> bool {
        let reaches = |peer: u8| {
            let dial = format!("exec 3<>/dev/tcp/{}/{port}", self.address(peer));
            let namespace = self.namespace(node);
            let dial = ["ip", "netns", "exec", &namespace, "timeout", "0.2", "bash", "-c", &dial];
            run(&dial).is_ok()
        };
        (1..=self.nodes).filter(|peer| *peer != node).any(reaches)
    }
}
