//! Random lives: thousands of seeded scenarios of the core under a virtual clock.

use std::collections::BTreeMap;

use yushan_abi::{Class, Label, Message, Role, Sources};

use crate::core::{Action, Core, Event};
use crate::process::{Budget, Exit, Pid, Price, Signal, Spawn, Spent, State};
use crate::scheduler::{Limits, Order, Scheduler};

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// One life and what must hold in it.
struct Life {
    random: Random,
    core: Core,
    now: u64,
    /// Messages on their way to each process: sent, not refused, not delivered.
    underway: BTreeMap<Pid, u64>,
    labels: BTreeMap<Pid, Label>,
    /// Everything the core was told.
    told: Vec<(u64, Option<Event>)>,
}

impl Life {
    fn new(seed: u64) -> Life {
        let mut random = Random(seed);
        let limits = Limits {
            slots: 1 + random.below(6) as usize,
            rows: 8 + random.below(64) as usize,
            prefill_beside: 4 + random.below(16) as usize,
        };
        let order = [Order::Fair, Order::Fair, Order::Fifo, Order::RoundRobin];
        let order = order[random.below(4) as usize];
        let core = Core::new(Scheduler::new(order, limits));
        let (underway, labels) = (BTreeMap::new(), BTreeMap::new());
        Life { random, core, now: 0, underway, labels, told: Vec::new() }
    }

    fn tell(&mut self, event: Event) {
        self.told.push((self.now, Some(event.clone())));
        if let Event::Send(_, to, _) = &event {
            *self.underway.entry(*to).or_default() += 1;
        }
        let sent = match &event {
            Event::Send(_, to, _) => Some(*to),
            _ => None,
        };
        for action in self.core.apply(self.now, event) {
            match action {
                Action::Deliver(to, ..) => *self.underway.entry(to).or_default() -= 1,
                Action::Refused(..) if sent.is_some() => {
                    *self.underway.entry(sent.unwrap_or(Pid(0))).or_default() -= 1;
                }
                Action::Release(pid, _) => {
                    self.underway.remove(&pid);
                }
                _ => {}
            }
        }
        self.check();
    }

    fn check(&mut self) {
        for process in self.core.processes() {
            let pid = process.pid;
            assert!(
                process.spawn.budget.tokens.is_none_or(|limit| process.used() <= limit),
                "{pid} spent {} of {:?}",
                process.spent,
                process.spawn.budget
            );
            assert!(
                process.spawn.budget.money.is_none_or(|limit| process.cost(0, 0) <= limit),
                "{pid} cost {} of {:?}",
                process.cost(0, 0),
                process.spawn.budget
            );
            assert_eq!(process.exit.is_some(), process.state == State::Exited);
            let before = self.labels.entry(pid).or_insert_with(|| process.spawn.label.clone());
            assert!(process.spawn.label.covers(before), "the label of {pid} fell");
            *before = process.spawn.label.clone();
            if process.exit.is_none() {
                let underway = self.underway.get(&pid).copied().unwrap_or(0);
                assert_eq!(process.mailbox.len() as u64, underway, "a message to {pid} is lost");
            }
        }
    }

    fn anybody(&mut self) -> Pid {
        let known: Vec<Pid> = self.core.processes().map(|process| process.pid).collect();
        match known.len() {
            0 => Pid(1),
            n => known[self.random.below(n as u64) as usize],
        }
    }

    fn spawn(&mut self) -> Event {
        let class = [Class::Interactive, Class::Agent, Class::Batch][self.random.below(3) as usize];
        let parent = (self.random.below(3) == 0).then(|| self.anybody());
        let random = &mut self.random;
        let mut maybe = |n: u64| (random.below(3) == 0).then(|| 1 + random.below(n));
        let budget =
            Budget { tokens: maybe(60), calls: maybe(3), money: maybe(90), wall_ms: maybe(400) };
        Event::Spawn(Box::new(Spawn {
            parent: parent.filter(|pid| self.core.process(*pid).is_some_and(|p| p.exit.is_none())),
            title: String::new(),
            model: String::new(),
            tenant: String::new(),
            class,
            weight: 1 + self.random.below(4) as u32,
            budget,
            price: Price { read: 1_000_000, written: 3_000_000 },
            spent: Spent::default(),
            label: Label::of(Sources::USER),
            prompt: 1 + self.random.below(40) as usize,
        }))
    }

    fn happening(&mut self) -> Event {
        let (pid, other) = (self.anybody(), self.anybody());
        let source = Sources::ALL[self.random.below(13) as usize].0;
        let message = || Box::new(Message::new(Role::User, "hello", Label::of(source)));
        match self.random.below(15) {
            0..=3 => self.spawn(),
            4 => Event::Signal(pid, Signal::Stop),
            5 => Event::Signal(pid, Signal::Continue),
            6 => Event::Signal(pid, Signal::Kill),
            7 => Event::Nice(pid, Class::Batch, 1 + self.random.below(8) as u32),
            8 => Event::Blocked(pid, self.random.below(2) == 0),
            9 => Event::Wait(pid, other),
            10 | 11 => Event::Send(pid, other, message()),
            12 => Event::Receive(pid),
            13 if self.core.process(pid).is_some_and(|p| p.state == State::Ready) => {
                Event::Call(pid, "tool".into())
            }
            14 => match self.core.process(pid).map(|p| p.state) {
                Some(State::Calling) if self.random.below(2) == 0 => Event::Ask(pid),
                Some(State::Calling) => self.turn(pid),
                Some(State::Asking) => Event::Answered(pid, Label::of(source)),
                _ => Event::Lent(pid, Budget { tokens: Some(1), ..Budget::default() }),
            },
            _ => Event::Tick,
        }
    }

    /// Another turn, on what is left of the one before, with what was written before a stop.
    fn turn(&mut self, pid: Pid) -> Event {
        let prompt = 1 + self.random.below(9) as usize;
        let (kept, written) = (self.random.below(prompt as u64) as usize, self.random.below(3));
        Event::Turn { pid, prompt, kept, written: written as usize }
    }

    /// A step of the engine: whoever has read everything writes a token, or ends.
    fn step(&mut self) -> bool {
        self.told.push((self.now, None));
        let rows = self.core.plan(self.now).rows;
        self.check();
        for &(pid, _) in &rows {
            let process = self.core.process(pid).expect("only processes are planned");
            assert!(process.exit.is_none() && !process.stopped && process.state == State::Ready);
        }
        for &(pid, _) in &rows {
            // One that ends may take others with it.
            if self.core.process(pid).is_some_and(|p| p.exit.is_none() && p.pending == 0) {
                let event = match self.random.below(12) {
                    0 => Event::Exit(pid, Exit::Done),
                    1 => Event::Paused(pid),
                    _ => Event::Wrote(pid),
                };
                self.tell(event);
            }
        }
        !rows.is_empty()
    }

    fn live(&mut self) {
        for _ in 0..60 {
            self.now += self.random.below(5);
            let event = self.happening();
            self.tell(event);
            self.step();
        }
        // Everything that holds somebody is let go: all must come to an end, nobody may be stuck.
        for round in 0.. {
            self.now += 1;
            let alive = self.core.processes().filter(|process| process.exit.is_none());
            let alive: Vec<(Pid, State, bool)> =
                alive.map(|p| (p.pid, p.state, p.stopped)).collect();
            if alive.is_empty() {
                break;
            }
            assert!(round < 20_000, "stuck: {alive:?}");
            for &(pid, state, stopped) in &alive {
                if stopped {
                    self.tell(Event::Signal(pid, Signal::Continue));
                }
                match state {
                    State::Blocked => self.tell(Event::Blocked(pid, false)),
                    State::Calling => {
                        self.tell(Event::Turn { pid, prompt: 1, kept: 0, written: 0 })
                    }
                    State::Asking => self.tell(Event::Answered(pid, Label::default())),
                    State::Receiving => {
                        let message = Message::new(Role::User, "go on", Label::default());
                        self.tell(Event::Send(pid, pid, Box::new(message)));
                    }
                    _ => {}
                }
            }
            let ran = self.step();
            let idle =
                self.core.processes().filter(|p| p.exit.is_none() && p.state == State::Ready);
            let idle: Vec<Pid> =
                idle.filter(|p| p.pending == 0).map(|process| process.pid).collect();
            // Whoever was woken with nothing to read is done.
            idle.iter().for_each(|&pid| self.tell(Event::Exit(pid, Exit::Done)));
            assert!(
                ran || !idle.is_empty() || self.core.alive() < alive.len() || round < 3,
                "{alive:?}"
            );
        }
    }
}

#[test]
fn ten_thousand_random_lives() {
    for seed in 0..10_000 {
        Life::new(seed).live();
    }
}

#[test]
fn the_same_journal_replays_to_the_same_table() {
    for seed in 0..200 {
        let mut life = Life::new(seed);
        life.live();
        let mut again = Life::new(seed).core;
        for (now, event) in &life.told {
            match event {
                // As it would come from the journal: written and read back.
                Some(event) => {
                    let text = serde_json::to_string(event).expect("events are plain data");
                    again.apply(*now, serde_json::from_str(&text).expect("and read back"));
                }
                None => {
                    again.plan(*now);
                }
            }
        }
        assert!(again.processes().eq(life.core.processes()), "seed {seed}");
    }
}
