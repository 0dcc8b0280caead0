//! What goes wrong in a simulation, and when. A seed draws the kinds of faults that its run has and
//! how hard they strike (swarm testing: some runs have no loss at all, some have 30 per cent).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use conclave_storage::failpoint::{Action, POINTS};
use tokio::time::{Instant, sleep};

use super::client::{World, question};
use super::network::{Network, Weather};
use super::observe;
use crate::checker::Violation;
use crate::checker::terms::Terms;
use crate::rng::Rng;

/// What this run's faults are like.
#[expect(clippy::struct_excessive_bools, reason = "each kind of fault is on or off by itself")]
struct Mood {
    weather: Weather,
    crashes: bool,
    partitions: bool,
    disk_errors: bool,
    crash_points: bool,
    /// Between two faults, in milliseconds, at most.
    pause_max_ms: u64,
    /// How long faults go on, in milliseconds.
    rage_ms: u64,
}

impl Mood {
    fn draw(rng: &mut Rng) -> Self {
        let loss = if rng.chance(500) { 0 } else { rng.below(300) };
        let duplicates = if rng.chance(600) { 0 } else { rng.below(200) };
        let delay_max_us = if rng.chance(600) { 2_000 } else { rng.between(2_000, 60_000) };
        Self {
            weather: Weather { loss, duplicates, delay_min_us: 100, delay_max_us },
            crashes: rng.chance(800),
            partitions: rng.chance(700),
            disk_errors: rng.chance(250),
            crash_points: rng.chance(400),
            pause_max_ms: rng.between(200, 1_500),
            rage_ms: rng.between(6_000, 14_000),
        }
    }
}

/// Injects faults into one world.
pub struct Faults {
    world: Rc<World>,
    network: Network,
    rng: Rng,
    injected: u64,
}

impl Faults {
    /// Faults drawn from one source of chance.
    pub fn new(world: Rc<World>, network: Network, rng: Rng) -> Self {
        Self { world, network, rng, injected: 0 }
    }

    /// How many have been injected.
    pub fn injected(&self) -> u64 {
        self.injected
    }

    /// Lets faults happen for some simulated seconds. Gives what went wrong that must not.
    pub async fn rage(&mut self, terms: &RefCell<Terms>) -> Vec<Violation> {
        let mood = Mood::draw(&mut self.rng);
        let mut violations = Vec::new();
        // Some calm first, so that there is something to lose.
        sleep(Duration::from_millis(self.rng.between(200, 1_000))).await;
        self.network.set_weather(mood.weather);
        let end = Instant::now() + Duration::from_millis(mood.rage_ms);
        while Instant::now() < end {
            let pause = self.rng.between(20, mood.pause_max_ms);
            sleep(Duration::from_millis(pause)).await;
            observe(&self.world, &self.network, terms);
            self.bury_the_failed();
            match self.rng.below(10) {
                0..=2 if mood.crashes => self.crash_some(),
                3..=5 => violations.extend(self.restart_some().await),
                6..=7 if mood.partitions => self.partition(),
                8 if mood.partitions => self.network.heal(),
                9 if mood.disk_errors => self.fail_a_disk(),
                _ if mood.crash_points => self.arm_a_crash_point(),
                _ => {}
            }
            observe(&self.world, &self.network, terms);
        }
        violations
    }

    fn note(&mut self, what: &str, numbers: &[u64]) {
        self.injected += 1;
        self.world.trace.event(self.world.now_ms(), what, numbers, b"");
    }

    /// Mostly one machine, sometimes a majority, sometimes all at once; with or without its power.
    fn crash_some(&mut self) {
        let count = self.world.machines.borrow().len();
        let victims = match self.rng.below(10) {
            0..=5 => 1,
            6..=7 => count / 2 + 1,
            _ => count,
        };
        let mut order: Vec<usize> = (0..count).collect();
        self.rng.shuffle(&mut order);
        let power_cut = self.rng.chance(700);
        for at in order.into_iter().take(victims) {
            let seed = self.rng.next_u64();
            self.crash(at, power_cut.then_some(seed));
        }
    }

    fn crash(&mut self, at: usize, power: Option<u64>) {
        self.note("crash", &[at as u64, u64::from(power.is_some())]);
        self.world.witness(at);
        if let Some(machine) = self.world.machines.borrow_mut().get_mut(at) {
            machine.crash(&self.network, power);
        }
    }

    /// A process whose storage has failed ends; the machine may lose its power with it.
    fn bury_the_failed(&mut self) {
        let failed: Vec<usize> = {
            let machines = self.world.machines.borrow();
            let has_failed = |at: &usize| {
                machines[*at].running.as_ref().is_some_and(|running| running.fault().is_some())
            };
            (0..machines.len()).filter(has_failed).collect()
        };
        for at in failed {
            let seed = self.rng.next_u64();
            let power = self.rng.chance(300).then_some(seed);
            self.crash(at, power);
        }
    }

    /// Takes back what is armed and has not struck.
    pub fn disarm(&self) {
        self.world.machines.borrow().iter().for_each(super::machine::Machine::disarm);
    }

    async fn restart_some(&mut self) -> Vec<Violation> {
        let down: Vec<usize> = {
            let machines = self.world.machines.borrow();
            (0..machines.len()).filter(|at| machines[*at].running.is_none()).collect()
        };
        let mut violations = Vec::new();
        for at in down {
            if self.rng.chance(600) {
                violations.extend(self.restart(at).await);
            }
        }
        violations
    }

    /// Starts every machine that is off, and those whose storage has failed.
    pub async fn restart_all(&mut self) -> Vec<Violation> {
        self.bury_the_failed();
        let mut violations = Vec::new();
        let count = self.world.machines.borrow().len();
        for at in 0..count {
            if self.world.machines.borrow()[at].running.is_none() {
                violations.extend(self.restart(at).await);
            }
        }
        violations
    }

    /// A machine that only lost what it never promised must start again.
    async fn restart(&mut self, at: usize) -> Option<Violation> {
        self.world.trace.event(self.world.now_ms(), "restart", &[at as u64], b"");
        // The machine is taken out while it starts: others look at the list meanwhile.
        let placeholder = {
            let machines = self.world.machines.borrow();
            super::machine::Machine::new(machines[at].id, machines[at].role, 0, 1, None)
        };
        let mut machine = std::mem::replace(&mut self.world.machines.borrow_mut()[at], placeholder);
        let mut started = machine.start(&self.network).await;
        if started.is_err() {
            // What was armed may have struck during recovery: then once more, undisturbed.
            machine.crash(&self.network, None);
            machine.disarm();
            started = machine.start(&self.network).await;
        }
        self.world.machines.borrow_mut()[at] = machine;
        tokio::task::spawn_local(question(Rc::clone(&self.world), at));
        started.err().map(|detail| Violation { invariant: "a crashed node recovers", detail })
    }

    /// Halves, one alone, one way, or a ring with one link missing.
    fn partition(&mut self) {
        let count = self.world.machines.borrow().len() as u64;
        let kind = self.rng.below(4);
        self.note("partition", &[kind]);
        self.network.heal();
        let leader = {
            let machines = self.world.machines.borrow();
            let leads = |machine: &&super::machine::Machine| {
                machine.running.as_ref().is_some_and(|running| running.handle.leads())
            };
            machines.iter().find(leads).map(|machine| machine.id)
        };
        let random = self.rng.between(1, count);
        let one = if self.rng.chance(600) { leader.unwrap_or(random) } else { random };
        let mut ids: Vec<u64> = (1..=count).collect();
        self.rng.shuffle(&mut ids);
        let half = ids.len() / 2;
        for from in 1..=count {
            for to in (1..=count).filter(|to| *to != from) {
                let side = |id: u64| ids.iter().position(|other| *other == id) < Some(half);
                let is_cut = match kind {
                    0 => side(from) != side(to),
                    1 => from == one || to == one,
                    2 => from == one,
                    _ => to == one,
                };
                if is_cut {
                    self.network.cut(from, to);
                }
            }
        }
    }

    /// One write or sync on one machine fails soon: its process must end by itself.
    fn fail_a_disk(&mut self) {
        let count = self.world.machines.borrow().len();
        let at = self.rng.index(count);
        let nth = u32::try_from(self.rng.between(1, 12)).unwrap_or(1);
        let is_sync = self.rng.chance(500);
        self.note("disk error", &[at as u64, u64::from(nth), u64::from(is_sync)]);
        let machines = self.world.machines.borrow();
        let disk = &machines[at].disk;
        if is_sync {
            disk.fail_sync(nth);
        } else {
            disk.fail_write(nth);
        }
    }

    /// At one named step of the store one machine loses its power.
    fn arm_a_crash_point(&mut self) {
        let count = self.world.machines.borrow().len();
        let at = self.rng.index(count);
        let Some(point) = self.rng.pick(POINTS).copied() else { return };
        let nth = u32::try_from(self.rng.between(1, 20)).unwrap_or(1);
        let seed = self.rng.next_u64();
        self.note(point, &[at as u64, u64::from(nth)]);
        let machines = self.world.machines.borrow();
        let disk = machines[at].disk.clone();
        let strike = Action::Call(Arc::new(move || disk.crash(seed)));
        machines[at].points.arm_action(point, nth, strike);
    }
}
