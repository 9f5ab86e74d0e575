//! Accounts under a clock that tests turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use yushan_abi::{Change, DiskError, NewRecord, Record};
use yushan_disk::Memory;
use yushan_kernel::gate::Capability;
use yushan_kernel::{Entry, Exit, Kernel, Options, Pid, Program, World};

use super::keys::secret;
use super::quota::Account;
use super::usage::User;
use super::*;

#[path = "../../../kernel/tests/scripted/mod.rs"]
mod player;

/// 2026-11-24, 22:00.
const NOW: u64 = 1_795_557_600_000;

struct House {
    disk: Arc<dyn Disk>,
    now: Arc<AtomicU64>,
    accounts: Accounts,
}

fn house(disk: Arc<dyn Disk>, always: bool) -> House {
    let now = Arc::new(AtomicU64::new(NOW));
    let clock = now.clone();
    let clock: Clock = Arc::new(move || clock.load(Ordering::SeqCst));
    House { accounts: Accounts::new(disk.clone(), always, clock), disk, now }
}

fn memory() -> Arc<dyn Disk> {
    Arc::new(Memory::new())
}

impl House {
    fn give(&self, secret: &str, limits: Limits, revoked: bool) {
        let key = Key { user: "ann".into(), scopes: vec![Scope::Use], revoked, limits };
        put(self.disk.as_ref(), &hash(secret), &key).unwrap();
    }

    fn later(&self, milliseconds: u64) {
        self.now.fetch_add(milliseconds, Ordering::SeqCst);
    }

    fn come(&self, secret: &str) -> Result<(Caller, Turn), Denial> {
        let caller = self.accounts.admit(Some(secret), None, Access::Use)?;
        let turn = self.accounts.begin(&caller)?;
        Ok((caller, turn))
    }

    /// Comes, uses so many tokens and goes.
    fn use_up(&self, secret: &str, prompt: usize, generated: usize) -> Result<(), Denial> {
        let (caller, _turn) = self.come(secret)?;
        self.accounts.charge(&caller, Counts { prompt, ..Counts::default() });
        self.accounts.charge(&caller, Counts { generated, ..Counts::default() });
        Ok(())
    }
}

#[test]
fn keys_let_in_whom_they_should() {
    let house = house(memory(), false);
    let accounts = &house.accounts;
    assert!(!accounts.exist().unwrap());
    let (secret, other) = (secret().unwrap(), secret().unwrap());
    house.give(&secret, Limits::default(), false);
    assert!(accounts.exist().unwrap());
    let (near, far) = (Some("127.0.0.1".parse().unwrap()), Some("10.0.0.1".parse().unwrap()));
    let ann = Ok("ann".to_string());
    let cases = [
        (None, near, Access::Manage, Ok(String::new())),
        (Some("anything"), near, Access::Use, Ok(String::new())),
        (None, far, Access::Use, Err(Denial::Missing)),
        (None, None, Access::Use, Err(Denial::Missing)),
        (Some("anything"), far, Access::Use, Err(Denial::Unknown)),
        (Some(&other), near, Access::Use, Err(Denial::Unknown)),
        (Some(&secret), far, Access::Use, ann.clone()),
        (Some(&secret), near, Access::Use, ann),
        (Some(&secret), near, Access::Manage, Err(Denial::Scope)),
    ];
    for (key, peer, access, expected) in cases {
        let found = accounts.admit(key, peer, access).map(|caller| caller.tenant);
        assert_eq!(found, expected, "{key:?} {peer:?} {access:?}");
    }
    let always = super::tests::house(house.disk.clone(), true);
    assert!(matches!(always.accounts.admit(None, near, Access::Use), Err(Denial::Missing)));
    house.give(&secret, Limits::default(), true);
    house.later(FRESH_MS);
    assert!(matches!(house.come(&secret), Err(Denial::Unknown)));
    assert!(!accounts.exist().unwrap());
}

#[test]
fn keys_and_users_are_limited_together() {
    let house = house(memory(), false);
    let [first, second] = [(); 2].map(|()| secret().unwrap());
    house.give(&first, Limits { tokens_per_day: Some(100), ..Limits::default() }, false);
    house.give(&second, Limits::default(), false);
    let limits = Limits { tokens_per_month: Some(150), ..Limits::default() };
    users::put(house.disk.as_ref(), "ann", limits).unwrap();
    assert_eq!(house.use_up(&first, 90, 20), Ok(()));
    let id = named(&hash(&first)).to_string();
    let granted = format!("100 tokens a day for the key {id}, 110 used");
    let after_ms = Some(2 * 3_600_000);
    assert_eq!(house.use_up(&first, 1, 1), Err(Denial::Quota { granted, after_ms }));
    // The user's other key goes on, until the user's month is used up.
    assert_eq!(house.use_up(&second, 40, 0), Ok(()));
    let denied = house.use_up(&second, 1, 1);
    assert!(matches!(&denied, Err(Denial::Quota { granted, .. }) if granted.contains("for ann")));
    // Limits that are changed hold after a second.
    users::put(house.disk.as_ref(), "ann", Limits::default()).unwrap();
    house.later(FRESH_MS);
    assert_eq!(house.use_up(&second, 1, 1), Ok(()));
}

#[test]
fn requests_count_as_running_until_they_are_let_go() {
    let house = house(memory(), false);
    let secret = secret().unwrap();
    let limits = Limits { concurrent: Some(1), requests_per_minute: Some(10), ..Limits::default() };
    house.give(&secret, limits, false);
    let (_, turn) = house.come(&secret).unwrap();
    assert_eq!(turn.requests.unwrap().left, 9);
    assert!(matches!(house.come(&secret), Err(Denial::Rate { .. })));
    drop(turn);
    assert!(house.come(&secret).is_ok());
}

#[test]
fn what_was_used_survives_and_days_are_kept_apart() {
    let disk = memory();
    let secret = secret().unwrap();
    let limits = Limits { tokens_per_day: Some(100), ..Limits::default() };
    let before = house(disk.clone(), false);
    before.give(&secret, limits, false);
    before.use_up(&secret, 60, 30).unwrap();
    before.accounts.usage.store().unwrap();
    before.use_up(&secret, 0, 5).unwrap();
    // It is killed here: what was not stored is forgotten, and nothing else.
    let after = house(disk.clone(), false);
    assert_eq!(after.use_up(&secret, 10, 0), Ok(()));
    assert!(after.use_up(&secret, 1, 1).is_err());
    // The next day, before the first was stored.
    after.later(3 * 3_600_000);
    assert_eq!(after.use_up(&secret, 7, 0), Ok(()));
    after.accounts.usage.store().unwrap();
    let user = User::read(disk.as_ref(), "ann", NOW + 3 * 3_600_000).unwrap();
    let id = named(&hash(&secret)).to_string();
    for account in [user.account, user.keys[&id]] {
        let sums = [account.today, account.month, account.total].map(|sum| sum.prompt);
        assert_eq!((sums, account.total.generated), ([7, 77, 77], 30));
        assert_eq!((account.today.requests, account.total.requests), (1, 3));
    }
    let days = disk.list("usage", Some("ann"), "", 10).unwrap();
    let days: Vec<&str> = days.iter().map(|day| &*day.key).collect();
    assert_eq!(days, ["2026-11-24/ann", "2026-11-25/ann"]);
}

#[test]
fn the_thread_stores_and_the_last_charges_too() {
    let house = house(memory(), false);
    let storing = Storing::start(house.accounts.usage.clone()).unwrap();
    let caller = Caller::default();
    drop(house.accounts.begin(&caller).unwrap());
    house.accounts.charge(&caller, Counts { prompt: 3, ..Counts::default() });
    drop(storing);
    let user = User::read(house.disk.as_ref(), "", NOW).unwrap();
    assert_eq!((user.account.today.prompt, user.account.today.requests), (3, 1));
}

/// A disk on which nothing can be written while it is full.
struct Full(Memory, std::sync::atomic::AtomicBool);

impl Disk for Full {
    fn append(&self, records: &[NewRecord]) -> Result<u64, DiskError> {
        self.0.append(records)
    }
    fn replay(
        &self,
        from: u64,
        visit: &mut dyn FnMut(Record) -> std::ops::ControlFlow<()>,
    ) -> Result<(), DiskError> {
        self.0.replay(from, visit)
    }
    fn replay_of(
        &self,
        pid: u64,
        after: u64,
        visit: &mut dyn FnMut(Record) -> std::ops::ControlFlow<()>,
    ) -> Result<(), DiskError> {
        self.0.replay_of(pid, after, visit)
    }
    fn verify(&self) -> Result<u64, DiskError> {
        self.0.verify()
    }
    fn put(&self, document: &Document) -> Result<(), DiskError> {
        match self.1.load(Ordering::SeqCst) {
            true => Err(DiskError::Full("0 bytes left".into())),
            false => self.0.put(document),
        }
    }
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError> {
        self.0.get(kind, key)
    }
    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError> {
        self.0.delete(kind, key)
    }
    fn list(
        &self,
        kind: &str,
        owner: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Document>, DiskError> {
        self.0.list(kind, owner, after, limit)
    }
    fn change(&self, changes: &[Change]) -> Result<(), DiskError> {
        self.0.change(changes)
    }
    fn put_bytes(&self, bytes: &[u8]) -> Result<String, DiskError> {
        self.0.put_bytes(bytes)
    }
    fn get_bytes(&self, sha256: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.0.get_bytes(sha256)
    }
}

#[test]
fn a_full_disk_loses_no_charge() {
    let full = Arc::new(Full(Memory::new(), false.into()));
    let secret = secret().unwrap();
    let house = house(full.clone(), false);
    house.give(&secret, Limits::default(), false);
    house.use_up(&secret, 1, 0).unwrap();
    full.1.store(true, Ordering::SeqCst);
    assert!(house.accounts.usage.store().is_err());
    // A day later, with the first day still unwritten.
    house.later(24 * 3_600_000);
    house.use_up(&secret, 10, 0).unwrap();
    assert!(house.accounts.usage.store().is_err());
    full.1.store(false, Ordering::SeqCst);
    house.accounts.usage.store().unwrap();
    let user = User::read(full.as_ref(), "ann", NOW + 24 * 3_600_000).unwrap();
    assert_eq!((user.account.today.prompt, user.account.total.prompt), (10, 11));
}

/// The figure of `docs/SPEED.md`; the bound is far off on purpose, so that a loaded machine holds it.
#[test]
fn everything_that_many_use_at_once_is_counted() {
    let house = house(memory(), false);
    let keys: Vec<String> = (0..10).map(|_| secret().unwrap()).collect();
    let many = Some(u64::MAX >> 20);
    let limits = Limits {
        requests_per_minute: many,
        tokens_per_minute: many,
        tokens_per_day: many,
        tokens_per_month: many,
        tokens_total: many,
        concurrent: many,
        cached_free: true,
    };
    keys.iter().for_each(|key| house.give(key, limits, false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for at in 0..1000 {
                    house.use_up(&keys[at % keys.len()], 100, 10).unwrap();
                }
            });
        }
    });
    house.accounts.usage.store().unwrap();
    let user = User::read(house.disk.as_ref(), "ann", NOW).unwrap();
    let counted = |account: Account| {
        let total = account.total;
        (total.requests, total.prompt, total.generated)
    };
    assert_eq!(counted(user.account), (4000, 400_000, 40_000));
    for key in &keys {
        let account = user.keys[&named(&hash(key)).to_string()];
        assert_eq!(counted(account), (400, 40_000, 4000));
    }
}

/// Makes the calls of its task, one a turn, and then says the last answer.
fn caller(messages: &[yushan_abi::Message]) -> String {
    use yushan_abi::Role;
    let task = messages.iter().find(|message| message.role == Role::User).unwrap().text();
    let turns = messages.iter().filter(|message| message.role == Role::Assistant).count();
    match task.split(';').nth(turns) {
        Some(call) if call.contains('{') => format!("hm|{call}"),
        _ => messages.last().unwrap().text(),
    }
}

impl House {
    fn kernel(&self) -> Kernel {
        let accounts = Accounts::new(self.disk.clone(), false, self.accounts.clock.clone());
        self.kernel_with(Arc::new(accounts))
    }

    fn kernel_with(&self, accounts: Arc<Accounts>) -> Kernel {
        let world =
            World { disk: Some(self.disk.clone()), billing: Some(accounts), ..World::default() };
        Kernel::start_in(world, vec![player::model(caller)], Options::default())
    }
}

/// A process of ann's, by the key of this secret.
fn program(secret: &str, task: &str) -> Program {
    use yushan_abi::{Label, Message, Prompt, Request, Role, Sources};
    let label = Label::of(Sources::USER).for_reader("ann");
    let prompt = Prompt::Chat(vec![Message::new(Role::User, task, label)]);
    let mut program = Program::new(Request {
        tenant: "ann".into(),
        account: named(&hash(secret)).into(),
        ..Request::new("m", prompt)
    });
    let able = ["spawn", "wait", "receive"].map(|name| (name.into(), Capability::default()));
    program.capabilities = able.into();
    program
}

fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it never happens");
        std::thread::yield_now();
    }
}

fn exit(kernel: &Kernel, pid: Pid) -> Exit {
    until(|| match kernel.log(pid, 0).unwrap().pop()?.entry {
        Entry::Exited(exit) => Some(exit),
        _ => None,
    })
}

/// Tokens that the journal tells of, read and written in all turns of these processes.
fn told(kernel: &Kernel, pids: &[u64]) -> (u64, u64) {
    let logs = pids.iter().flat_map(|&pid| kernel.log(Pid(pid), 0).unwrap());
    logs.fold((0, 0), |(read, written), logged| match logged.entry {
        Entry::Said { counts, .. } => {
            (read + counts.prompt as u64, written + counts.generated as u64)
        }
        _ => (read, written),
    })
}

/// A process and its child count against the key that began them, before and after a restart in the middle.
#[test]
fn processes_and_their_children_are_charged_to_the_key_that_began_them() {
    let house = house(memory(), false);
    let secret = secret().unwrap();
    house.give(&secret, Limits::default(), false);
    let charged = |accounts: &Accounts| {
        accounts.usage.store().unwrap();
        let user = User::read(house.disk.as_ref(), "ann", NOW).unwrap();
        let (key, all) = (user.keys[named(&hash(&secret))].total, user.account.total);
        assert_eq!((key.prompt, key.generated), (all.prompt, all.generated));
        (key.prompt, key.generated)
    };
    let accounts =
        || Arc::new(Accounts::new(house.disk.clone(), false, house.accounts.clock.clone()));
    let (first, second) = (accounts(), accounts());
    let kernel = house.kernel_with(first.clone());
    let task = "spawn {\"task\":\"hello\"};wait {\"pid\":2};receive {};";
    let pid = kernel.spawn(program(&secret, task), Box::new(yushan_abi::Nobody)).unwrap();
    until(|| kernel.look(pid).filter(|life| life.turns == 3));
    kernel.stop();
    let before = told(&kernel, &[1, 2]);
    assert!(told(&kernel, &[2]).1 > 0, "the child has said something");
    assert_eq!(charged(&first), before);
    drop(kernel);
    let kernel = house.kernel_with(second.clone());
    assert_eq!(kernel.resume(|_| Ok(Some(Box::new(yushan_abi::Nobody)))), Ok(1));
    until(|| kernel.mail(pid, "ann", "go on".into()).ok());
    assert_eq!(exit(&kernel, pid), Exit::Done);
    let after = told(&kernel, &[1, 2]);
    assert!(after.1 > before.1);
    assert_eq!(charged(&second), after);
}

#[test]
fn quotas_stop_processes_and_rates_delay_them() {
    let secret = secret().unwrap();
    let id = named(&hash(&secret)).to_string();
    let task = "spawn {\"task\":\"hello\"};wait {\"pid\":2};";
    for (limits, revoked, why) in [
        (Limits { tokens_total: Some(50), ..Limits::default() }, false, "50 tokens in all for"),
        (Limits { tokens_per_day: Some(50), ..Limits::default() }, false, "50 tokens a day for"),
        (Limits::default(), true, "was revoked"),
    ] {
        let house = house(memory(), false);
        house.give(&secret, limits, revoked);
        let kernel = house.kernel();
        let pid = kernel.spawn(program(&secret, task), Box::new(yushan_abi::Nobody)).unwrap();
        let Exit::Quota(granted) = exit(&kernel, pid) else { panic!("no quota stops it") };
        assert!(granted.contains(why) && granted.contains(&id), "{granted}");
        assert_eq!(told(&kernel, &[2]), (0, 0), "the child did not begin to speak");
    }
    // By the minute: it waits until there is more.
    let house = house(memory(), false);
    let limits = Limits { tokens_per_minute: Some(60_000), ..Limits::default() };
    house.give(&secret, limits, false);
    let accounts = Arc::new(Accounts::new(house.disk.clone(), false, house.accounts.clock.clone()));
    let payer = Payer { tenant: "ann".into(), account: id };
    assert_eq!(accounts.may_begin(&payer), Ok(()));
    accounts.bill(&payer, Counts { generated: 60_100, ..Counts::default() });
    assert_eq!(accounts.may_begin(&payer), Err(Refusal::Busy { after_ms: 101 }));
    let kernel = house.kernel_with(accounts);
    let pid = kernel.spawn(program(&secret, task), Box::new(yushan_abi::Nobody)).unwrap();
    until(|| kernel.look(Pid(2)));
    assert!(kernel.look(pid).is_some_and(|life| life.turns == 1));
    house.later(60_000);
    assert_eq!(exit(&kernel, pid), Exit::Done);
    assert!(told(&kernel, &[2]).1 > 0);
}
