//! A network of its own for each node: a namespace, joined to the others by a bridge. The harness
//! sits on the bridge too, with an address outside the nodes' half of the subnet, so that it still
//! reaches a node that is cut off from its peers.
//!
//! Recipe: `fault-model` section 3 and N3. Needs root, `ip` and `iptables`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::shell::{HarnessError, Undo, provide, provide_from, run};

/// The bridge, the namespaces, and the harness's own link. All is undone on drop.
#[derive(Debug)]
pub struct Network {
    /// Distinguishes this run from others: a byte of the subnet and part of every name.
    subnet: u8,
    tag: String,
    nodes: u8,
    /// Numbers that have a namespace.
    made: BTreeSet<u8>,
    undo: Undo,
}

/// Something in the way of a node's packets (N3 to N9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurdle {
    /// It hears nothing from one other; that one hears it still (N4), unless it is deaf, too (N3).
    Deaf {
        /// Who does not hear.
        node: u8,
        /// Whom.
        to: u8,
    },
    /// It loses some of what comes in (N6).
    Lossy {
        /// Which.
        node: u8,
        /// How much of it, below 100.
        per_cent: u8,
    },
    /// It sends a megabit a second at most (N8). At most one such hurdle a node.
    Narrow {
        /// Which.
        node: u8,
    },
    /// Its cable is out (N5).
    Unplugged {
        /// Which.
        node: u8,
    },
}

impl Network {
    /// Makes namespaces for so many nodes, numbered from 1.
    ///
    /// # Errors
    /// Without root, or when `ip` refuses.
    pub fn create(nodes: u8) -> Result<Self, HarnessError> {
        provide_from("ip", "iproute2")?;
        provide("iptables")?;
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
        let mut network = Self { subnet, tag, nodes: 0, made: BTreeSet::new(), undo };
        for node in 1..=nodes {
            network.add(node)?;
            network.nodes = node;
        }
        Ok(network)
    }

    /// Makes a namespace with that number in the subnet, unless it is there: a node's below 128, beyond
    /// those that can be cut off from 128 on.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn add(&mut self, number: u8) -> Result<(), HarnessError> {
        if !self.made.insert(number) {
            return Ok(());
        }
        let (name, hub) = (self.namespace(number), self.hub());
        let link = self.link(number);
        let address = format!("{}/24", self.address(number));
        self.undo.run(&["ip", "netns", "add", &name], &["ip", "netns", "del", &name])?;
        run(&["ip", "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        run(&["ip", "link", "set", &link, "netns", &hub])?;
        run(&["ip", "-n", &hub, "link", "set", &link, "master", "br0", "up"])?;
        run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        run(&["ip", "-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        run(&["ip", "-n", &name, "link", "set", "eth0", "up"]).map(drop)
    }

    fn hub(&self) -> String {
        format!("{}hub", self.tag)
    }

    /// The bridge's end of a node's link, in the hub.
    fn link(&self, number: u8) -> String {
        format!("{}v{number}", self.tag)
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

    /// Cuts a node off from everything else, the harness and balancers included.
    ///
    /// # Errors
    /// When `iptables` refuses.
    pub fn cut_off(&self, node: u8) -> Result<(), HarnessError> {
        let rules = "iptables -A INPUT -i eth0 -j DROP && iptables -A OUTPUT -o eth0 -j DROP";
        run(&["ip", "netns", "exec", &self.namespace(node), "sh", "-c", rules]).map(drop)
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

    /// Puts a hurdle in the way.
    ///
    /// # Errors
    /// When `iptables`, `tc` or `ip` refuses.
    pub fn put(&self, hurdle: Hurdle) -> Result<(), HarnessError> {
        self.change(hurdle, true)
    }

    /// Takes a hurdle out of the way. The same one may be there more than once.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn lift(&self, hurdle: Hurdle) -> Result<(), HarnessError> {
        self.change(hurdle, false)
    }

    fn change(&self, hurdle: Hurdle, on: bool) -> Result<(), HarnessError> {
        let filter = if on { "-A" } else { "-D" };
        match hurdle {
            Hurdle::Deaf { node, to } => {
                let from = self.address(to).to_string();
                self.inside(
                    node,
                    &["iptables", "-w", filter, "INPUT", "-i", "eth0", "-s", &from, "-j", "DROP"],
                )
            }
            Hurdle::Lossy { node, per_cent } => {
                let share = format!("0.{per_cent:02}");
                let words = ["-m", "statistic", "--mode", "random", "--probability", &share];
                let start = ["iptables", "-w", filter, "INPUT", "-i", "eth0"];
                self.inside(node, &[&start[..], &words, &["-j", "DROP"]].concat())
            }
            Hurdle::Narrow { node } if on => {
                let queue = ["tbf", "rate", "1mbit", "burst", "4kb", "latency", "200ms"];
                let start = ["tc", "qdisc", "replace", "dev", "eth0", "root"];
                self.inside(node, &[&start[..], &queue].concat())
            }
            Hurdle::Narrow { node } => {
                self.inside(node, &["tc", "qdisc", "del", "dev", "eth0", "root"])
            }
            Hurdle::Unplugged { node } => {
                let state = if on { "down" } else { "up" };
                let (hub, link) = (self.hub(), self.link(node));
                run(&["ip", "-n", &hub, "link", "set", &link, state]).map(drop)
            }
        }
    }

    /// Runs a command in a node's namespace.
    fn inside(&self, node: u8, words: &[&str]) -> Result<(), HarnessError> {
        let namespace = self.namespace(node);
        run(&[&["ip", "netns", "exec", &namespace][..], words].concat()).map(drop)
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
