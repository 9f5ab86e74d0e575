//! Processes with programs: system calls, the gate, and the journal that they go on from.

mod paper;
mod scripted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use paper::{Paper, Tally, Till};
use scripted::{Part, model};
use yushan_abi::*;
use yushan_kernel::gate::Capability;
use yushan_kernel::journal::Logged;
use yushan_kernel::life::Mode;
use yushan_kernel::syscall::SystemCall;
use yushan_kernel::{
    Budget, Entry, Exit, Kernel, Options, Payer, Pid, Program, Says, State, World,
};

struct System {
    kernel: Kernel,
    paper: Paper,
    till: Arc<Till>,
    read: Arc<Tally>,
    write: Arc<Tally>,
}

fn system(part: Part, paper: Paper) -> System {
    let read = Tally::new("look", Effect::Read, Sources::WEB);
    let write = Tally::new("write", Effect::Write, Sources::CODE);
    let till = Arc::new(Till::default());
    let world = World {
        billing: Some(till.clone()),
        disk: Some(Arc::new(paper.clone())),
        index: Some(Arc::new(paper.clone())),
        tools: vec![read.clone(), write.clone()],
        ..World::default()
    };
    let kernel = Kernel::start_in(world, vec![model(part)], Options::default());
    System { kernel, paper, till, read, write }
}

fn payer(tenant: &str) -> Payer {
    Payer { tenant: tenant.into(), account: "k".into() }
}

fn program(task: &str) -> Program {
    let label = Label::of(Sources::USER).for_reader("ann");
    let prompt = Prompt::Chat(vec![Message::new(Role::User, task, label)]);
    let request = Request::new("m", prompt);
    let mut program =
        Program::new(Request { tenant: "ann".into(), account: "k".into(), ..request });
    let all = SystemCall::NAMES.into_iter().chain(["look", "write"]);
    program.capabilities = all.map(|name| (name.into(), Capability::default())).collect();
    program.attended = true;
    program
}

fn start(kernel: &Kernel, program: Program) -> (Pid, Receiver<Event>) {
    let (sender, receiver) = channel();
    (kernel.spawn(program, Box::new(sender)).expect("begins"), receiver)
}

/// What it said, and how it ended.
fn end(events: &Receiver<Event>) -> (String, Event) {
    let mut text = String::new();
    loop {
        match events.recv_timeout(Duration::from_secs(20)).expect("it ends") {
            Event::Text { text: more, .. } => text += &more,
            last @ (Event::Done { .. } | Event::Failed(_)) => return (text, last),
            _ => {}
        }
    }
}

fn said(kernel: &Kernel, program: Program) -> String {
    let (text, last) = end(&start(kernel, program).1);
    assert!(matches!(last, Event::Done { finish: Finish::End, .. }), "{last:?}");
    text
}

fn last(messages: &[Message]) -> String {
    messages.last().map(Message::text).unwrap_or_default()
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

/// Makes the calls of the task one turn after the other, then says the last answer.
fn caller(messages: &[Message]) -> String {
    let task = messages.iter().find(|message| message.role == Role::User).unwrap().text();
    let turns = messages.iter().filter(|message| message.role == Role::Assistant).count();
    match task.split(';').nth(turns) {
        Some(call) if !call.is_empty() => format!("hm|{call}"),
        _ => last(messages),
    }
}

#[test]
fn calls_are_answered_until_there_are_none() {
    let system = system(caller, Paper::default());
    let text = said(&system.kernel, program("look {\"to\":1};write {\"to\":\"x\"};"));
    assert_eq!(text, "hmhmwrite({\"to\":\"x\"})");
    assert_eq!(*system.read.keys.lock().unwrap(), ["1.1.0"]);
    // Two calls in one turn are answered in their order.
    let text = said(&system.kernel, program("look {\"to\":1}|look {\"to\":2};"));
    assert_eq!(text, "hmlook({\"to\":2})");
    // A tool that breaks down, arguments that are none, a tool that is not there.
    let text = said(&system.kernel, program("look {\"to\":\"breaks\"};"));
    assert_eq!(text, "hmthe tool broke down");
    assert!(said(&system.kernel, program("look 7;")).contains("no JSON object"));
    let mut unable = program("look {\"to\":1};");
    unable.capabilities.insert("look".into(), Capability { uses: Some(0), ..Default::default() });
    assert_eq!(said(&system.kernel, unable), "hmdenied: it may not be called any more");
    // A tool that the client runs ends the turn.
    let mut theirs = program("theirs {};");
    let spec = serde_json::json!({"name": "theirs", "schema": {}});
    theirs.request.tools.push(serde_json::from_value(spec).unwrap());
    let (_, done) = end(&start(&system.kernel, theirs).1);
    let Event::Done { finish: Finish::Calls, calls, .. } = done else { panic!("{done:?}") };
    assert_eq!(calls[0].name, "theirs");
}

/// What is wrong with a call is told to the model, which goes on.
#[test]
fn calls_that_cannot_be_made_are_answered() {
    let system = system(caller, Paper::default());
    for (task, expected) in [
        ("nothing {};", "there is no tool \"nothing\"; there are: "),
        (
            "write {\"to\": true};",
            "the arguments do not fit the schema: at /to: true is not of types",
        ),
        ("write {};", "the arguments do not fit the schema: \"to\" is a required property"),
        ("write {\"to\"", "the arguments are no JSON: "),
        ("wait {\"pid\": \"x\"};", "invalid type: string"),
    ] {
        let text = said(&system.kernel, program(task));
        assert!(text.contains(expected), "{task}: {text}");
    }
    assert!(system.write.keys.lock().unwrap().is_empty());
}

/// The same call with the same answer is made so often and no more; whoever goes on regardless is ended.
#[test]
fn a_loop_is_broken() {
    let system = system(caller, Paper::default());
    let calls = |times| "look {\"to\":1};".repeat(times);
    let text = said(&system.kernel, program(&calls(5)));
    assert!(text.contains("not made: this very call was made 3 times"), "{text}");
    assert_eq!(system.read.keys.lock().unwrap().len(), 3);
    let (_, last) = end(&start(&system.kernel, program(&calls(9))).1);
    assert_eq!(last, Event::Failed(Refusal::Repeats(6)));
    // Another call in between, or another answer, is no loop.
    let others = "look {\"to\":1};look {\"to\":1};look {\"to\":2};".repeat(3);
    said(&system.kernel, program(&others));
    assert_eq!(system.read.keys.lock().unwrap().len(), 3 + 3 + 9);
}

/// A setting of the user's makes the gate stricter, never laxer.
#[test]
fn a_tool_can_be_set_to_ask_or_to_never() {
    let system = system(caller, Paper::default());
    let set = |mode, attended| {
        let modes = BTreeMap::from([("look".to_string(), mode)]);
        Program { modes, attended, ..program("look {\"to\":1};") }
    };
    assert_eq!(said(&system.kernel, set(Mode::Deny, true)), "hmdenied");
    let text = said(&system.kernel, set(Mode::Ask, false));
    assert_eq!(text, "hmdenied: nobody is there who could allow it");
    for (allowed, expected) in [(true, "hmlook({\"to\":1})"), (false, "hma user said no")] {
        let (pid, events) = start(&system.kernel, set(Mode::Ask, true));
        let key = loop {
            match events.recv_timeout(Duration::from_secs(20)).expect("it asks") {
                Event::Asks { key, call } => {
                    assert_eq!(
                        (call.name.as_str(), call.arguments.as_str()),
                        ("look", "{\"to\":1}")
                    );
                    break key;
                }
                Event::Done { .. } | Event::Failed(_) => panic!("it does not ask"),
                _ => {}
            }
        };
        until(|| {
            let says = Says::Allow(key.clone(), allowed);
            system.kernel.says(pid, "ann", says).ok()
        });
        assert_eq!(format!("hm{}", end(&events).0), expected);
    }
    assert_eq!(system.read.keys.lock().unwrap().len(), 1);
}

/// Answers when two calls are under way, the later one first.
struct Pair {
    spec: ToolSpec,
    under_way: std::sync::Mutex<Vec<String>>,
}

impl Tool for Pair {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }
    fn call(&self, Invocation { arguments, key, .. }: &Invocation<'_>) -> ToolResult {
        self.under_way.lock().unwrap().push((*key).to_string());
        until(|| (self.under_way.lock().unwrap().len() >= 2).then_some(()));
        if arguments["to"] == 1 {
            until(|| {
                self.under_way.lock().unwrap().iter().any(|key| key == "second").then_some(())
            });
        } else {
            self.under_way.lock().unwrap().push("second".into());
        }
        ToolResult::new(format!("pair {}", arguments["to"]), Label::of(Sources::WEB))
    }
}

/// Calls of one turn that only look are made beside each other and answered in their order.
#[test]
fn calls_that_only_look_are_made_at_the_same_time() {
    let spec = serde_json::json!({"name": "look", "effect": "read", "schema": {}});
    let spec = serde_json::from_value(spec).unwrap();
    let pair = Arc::new(Pair { spec, under_way: Default::default() });
    let world = World { tools: vec![pair.clone()], ..World::default() };
    let kernel = Kernel::start_in(world, vec![model(caller)], Options::default());
    let mut both = program("look {\"to\":1}|look {\"to\":2};");
    both.capabilities.retain(|name, _| name != "write");
    let (pid, events) = start(&kernel, both);
    let mut answers = Vec::new();
    let mut text = String::new();
    loop {
        match events.recv_timeout(Duration::from_secs(20)).expect("it goes on") {
            Event::Answered { result, .. } => answers.push(result.text()),
            Event::Text { text: more, .. } => text += &more,
            Event::Done { .. } => break,
            Event::Failed(why) => panic!("{why}"),
            _ => {}
        }
    }
    assert_eq!((answers, text.as_str()), (vec!["pair 1".into(), "pair 2".to_string()], "hmpair 2"));
    let keys = pair.under_way.lock().unwrap().clone();
    assert!(
        keys.contains(&format!("{pid}.1.0")) && keys.contains(&format!("{pid}.1.1")),
        "{keys:?}"
    );
}

/// Code in an answer is run before that is shown; a failure is told to the model once.
#[test]
fn code_is_run_before_it_is_shown() {
    fn coder(messages: &[Message]) -> String {
        let said = messages.iter().rev().find(|message| message.role == Role::User).unwrap().text();
        match said.contains("was run and failed") {
            true if said.contains("hopeless") => "```python\nhopeless\n```".into(),
            true => "```python\ngood\n```".into(),
            false => said,
        }
    }
    struct Runs(ToolSpec, std::sync::Mutex<Vec<String>>);
    impl Tool for Runs {
        fn spec(&self) -> &ToolSpec {
            &self.0
        }
        fn call(&self, Invocation { arguments, space, .. }: &Invocation<'_>) -> ToolResult {
            let code = arguments["code"].as_str().unwrap();
            self.1.lock().unwrap().push(format!("{code:?} in {space}"));
            let failed = !code.starts_with("good");
            ToolResult {
                failed,
                ..ToolResult::new(format!("NameError: {code}"), Label::of(Sources::CODE))
            }
        }
        fn forked(&self, from: &str, to: &str) -> Result<(), String> {
            self.1.lock().unwrap().push(format!("{to} of {from}"));
            Ok(())
        }
    }
    let spec = serde_json::json!({"name": "look", "effect": "exec", "schema": {}});
    let runs = Arc::new(Runs(serde_json::from_value(spec).unwrap(), Default::default()));
    let world = World { tools: vec![runs.clone()], ..World::default() };
    let kernel = Kernel::start_in(world, vec![model(coder)], Options::default());
    for (task, shown, verdict, ran) in [
        ("```python\ngood\n```", "```python\ngood\n```", Verified::Ran, 1),
        ("```python\nbad\n```", "```python\ngood\n```", Verified::Ran, 2),
        ("```python\nhopeless\n```", "```python\nhopeless\n```", Verified::Failed, 2),
        ("no code", "no code", Verified::NotRun, 0),
    ] {
        runs.1.lock().unwrap().clear();
        let check = yushan_kernel::check::Check { tool: "look".into(), examples: "more".into() };
        let mut program = Program { check: Some(check), space: "mine".into(), ..program(task) };
        program.capabilities.retain(|name, _| name != "write");
        let (pid, events) = start(&kernel, program);
        let (mut text, mut verdicts) = (String::new(), Vec::new());
        loop {
            match events.recv_timeout(Duration::from_secs(20)).expect("it goes on") {
                Event::Text { text: more, .. } => text += &more,
                Event::Verified(verdict) => verdicts.push(verdict),
                Event::Done { finish, .. } => break assert_eq!(finish, Finish::End),
                Event::Failed(why) => panic!("{why}"),
                _ => {}
            }
        }
        assert_eq!((text.as_str(), &verdicts[..]), (shown, &[verdict][..]), "{task}");
        let log = runs.1.lock().unwrap().clone();
        assert_eq!(log.len(), 2 * ran, "{log:?}");
        if ran > 0 {
            let copy = format!("check-{pid}.1.0");
            assert_eq!(log[0], format!("{copy} of mine"));
            assert!(log[1].ends_with(&format!("\\nmore\\n\" in {copy}")), "{log:?}");
        }
    }
    let check =
        Some(yushan_kernel::check::Check { tool: "absent".into(), examples: String::new() });
    let refused = kernel.spawn(Program { check, ..program("x") }, Box::new(Nobody));
    assert!(
        matches!(refused, Err(Refusal::Invalid { field, .. }) if field == "check" || field == "tools")
    );
}

#[test]
fn what_came_from_outside_decides_nothing_unless_the_user_says_so() {
    let system = system(caller, Paper::default());
    let task = "look {\"to\":1};write {\"to\":\"elsewhere7\".}".replace(".}", "};");
    // It stands in what the user wrote: allowed, though the process has read the web.
    assert!(said(&system.kernel, program(&task)).contains("write({\"to\":\"elsewhere7\"})"));
    // The page says where: the user is asked.
    fn obeys(messages: &[Message]) -> String {
        match messages.iter().filter(|message| message.role == Role::Assistant).count() {
            0 => "|look {\"to\":1}".into(),
            1 => "|write {\"to\":\"attacker\"}".into(),
            _ => last(messages),
        }
    }
    for (allow, expected) in [(true, "write({\"to\":\"attacker\"})"), (false, "a user said no")] {
        let system = self::system(obeys, Paper::default());
        let (pid, events) = start(&system.kernel, program("go"));
        let life = until(|| {
            let processes = system.kernel.processes();
            let asking = processes.iter().any(|p| p.pid == pid && p.state == State::Asking);
            asking.then(|| system.kernel.look(pid)).flatten()
        });
        assert!(system.write.keys.lock().unwrap().is_empty());
        assert!(system.kernel.says(pid, "ann", Says::Allow("other".into(), true)).is_err());
        assert!(system.kernel.says(pid, "ann", Says::Text("yes".into())).is_err());
        system.kernel.says(pid, "ann", Says::Allow(life.key(), allow)).expect("is asked");
        assert!(
            system.kernel.says(pid, "ann", Says::Allow(life.key(), allow)).is_err(),
            "asked once"
        );
        assert_eq!(end(&events).0, expected);
        assert_eq!(system.write.keys.lock().unwrap().len(), usize::from(allow));
    }
    // Nobody is there: denied.
    let unattended = self::system(obeys, Paper::default());
    let text = said(&unattended.kernel, Program { attended: false, ..program("go") });
    assert_eq!(text, "denied");
    assert!(unattended.write.keys.lock().unwrap().is_empty());
}

#[test]
fn children_are_started_waited_for_and_paid_for() {
    fn family(messages: &[Message]) -> String {
        let task = messages.iter().find(|message| message.role == Role::User).unwrap().text();
        let turns = messages.iter().filter(|m| m.role == Role::Assistant).count();
        match (task.as_str(), turns) {
            ("parent", 0) => "|spawn {\"task\":\"child\",\"tools\":[\"look\"]}".into(),
            ("parent", 1) => {
                let pid: u64 = last(messages).rsplit(' ').next().unwrap().parse().unwrap();
                format!("|wait {{\"pid\":{pid}}}")
            }
            ("child", 0) => "|look {\"to\":3}".into(),
            _ => format!("<{}>", last(messages)),
        }
    }
    let system = system(family, Paper::default());
    let budget = Budget { tokens: Some(100_000), wall_ms: Some(60_000), ..Budget::default() };
    let (pid, events) = start(&system.kernel, Program { budget, ..program("parent") });
    assert_eq!(end(&events).0, "<<look({\"to\":3})>>");
    let processes = system.kernel.processes();
    let process = |is: &dyn Fn(&yushan_kernel::Process) -> bool| {
        processes.iter().find(|process| is(process)).unwrap().clone()
    };
    let (parent, child) = (process(&|p| p.pid == pid), process(&|p| p.pid != pid));
    assert_eq!(child.spawn.parent, Some(pid));
    let lent = child.spawn.budget.tokens.unwrap();
    assert_eq!(parent.spawn.budget.tokens.unwrap() + lent, 100_000);
    assert_eq!(parent.spawn.budget.wall_ms, Some(60_000), "time passes for both");
    // What the child read from the web is in the parent's label now.
    assert!(!parent.spawn.label.is_trusted());
    assert_eq!(parent.meter, BTreeMap::from([("spawn".into(), 1), ("wait".into(), 1)]));
    // Others' children, and tools one does not have.
    let text = said(&system.kernel, program("parent2"));
    assert_eq!(text, "<parent2>");
    let other = self::system(caller, Paper::default());
    assert!(said(&other.kernel, program("wait {\"pid\":77};")).contains("no such child"));
    let mut few = program("spawn {\"task\":\"x\",\"tools\":[\"look\"]};");
    few.capabilities.remove("look");
    assert!(said(&other.kernel, few).contains("you may not call"));
}

#[test]
fn a_fork_has_the_same_past_and_knows_who_it_is() {
    fn splits(messages: &[Message]) -> String {
        let told = last(messages);
        match messages.iter().filter(|m| m.role == Role::Assistant).count() {
            0 => "|fork {}".into(),
            1 if told.starts_with("started process") => {
                format!("|wait {{\"pid\":{}}}", told.rsplit(' ').next().unwrap())
            }
            1 => format!("{} of {} messages", told, messages.len()),
            _ => format!("it said: {told}"),
        }
    }
    let system = system(splits, Paper::default());
    let text = said(&system.kernel, program("go"));
    assert_eq!(text, "it said: you are the new process 2, forked from 1 of 3 messages");
}

#[test]
fn messages_memory_and_questions() {
    fn ear(messages: &[Message]) -> String {
        match messages.iter().filter(|m| m.role == Role::Assistant).count() {
            0 | 1 => "|receive {}".into(),
            _ => last(messages),
        }
    }
    let system = system(ear, Paper::default());
    let (pid, events) = start(&system.kernel, program("go"));
    system.kernel.mail(pid, "ann", "one".into()).expect("is taken");
    system.kernel.mail(pid, "ann", "two".into()).expect("is taken");
    assert_eq!(end(&events).0, "from the user: two");
    assert!(system.kernel.mail(pid, "ann", "three".into()).is_err());

    let system = self::system(caller, Paper::default());
    let (other, heard) = start(&system.kernel, program("receive {};"));
    let text = said(&system.kernel, program(&format!("send {{\"pid\":{other},\"text\":\"hi\"}};")));
    assert_eq!(text, "hmsent");
    assert_eq!(end(&heard).0, "hmfrom process 2: hi");
    let text = said(&system.kernel, program("send {\"pid\":99,\"text\":\"hi\"};"));
    assert!(text.contains("no such process"), "{text}");

    let text = said(&system.kernel, program("look {\"to\":1};remember {\"text\":\"tea is hot\"};"));
    assert_eq!(text, "hmhmkept");
    let (pid, events) = start(&system.kernel, program("recall {\"query\":\"tea\"};"));
    assert_eq!(end(&events).0, "hm- tea is hot\n");
    // It was remembered after the web was read, and is as little trusted as then.
    let process = system.kernel.processes().into_iter().find(|p| p.pid == pid).unwrap();
    assert!(!process.spawn.label.is_trusted());
    let mut bob = program("recall {\"query\":\"tea\"};");
    bob.request.tenant = "bob".into();
    assert_eq!(said(&system.kernel, bob), "hmnothing was found");

    let (pid, events) = start(&system.kernel, program("ask {\"question\":\"which?\"};"));
    until(|| system.kernel.says(pid, "ann", Says::Text("this".into())).ok());
    assert_eq!(end(&events).0, "hmthis");
    let unattended = Program { attended: false, ..program("ask {\"question\":\"which?\"};") };
    assert!(said(&system.kernel, unattended).contains("nobody is there"));
    assert_eq!(said(&system.kernel, program("exit {\"text\":\" bye\"};")), "hm bye");
    // A process that waits for ever can be killed, and one that waits for itself is told.
    assert!(said(&system.kernel, program("wait {\"pid\":1};")).contains("no such child"));
}

#[test]
fn budgets_of_calls_and_money_end_a_process() {
    let system = system(caller, Paper::default());
    let budget = Budget { calls: Some(1), ..Budget::default() };
    let task = "look {\"to\":1};look {\"to\":2};";
    let (_, events) = start(&system.kernel, Program { budget, ..program(task) });
    let (_, last) = end(&events);
    assert!(
        matches!(&last, Event::Done { finish: Finish::Budget(which), .. } if which == "calls"),
        "{last:?}"
    );
    assert_eq!(system.read.keys.lock().unwrap().len(), 1);
}

/// Tokens read and written, in all turns that the records tell of.
fn spent(records: &[Record]) -> (usize, usize) {
    let entries = records.iter().map(|record| serde_json::from_str(&record.body).unwrap());
    entries.fold((0, 0), |(read, written), entry| match entry {
        Entry::Said { counts, .. } => (read + counts.prompt, written + counts.generated),
        _ => (read, written),
    })
}

fn figures(counts: Counts) -> [usize; 3] {
    [counts.prompt, counts.cached, counts.generated]
}

#[test]
fn whoever_began_a_process_pays_for_all_that_comes_of_it() {
    let system = system(caller, Paper::default());
    let ann = payer("ann");
    said(&system.kernel, program(SESSION));
    until(|| system.kernel.processes().iter().all(|p| p.exit.is_some()).then_some(()));
    let records = system.paper.records.lock().unwrap().clone();
    let child: Vec<Record> = records.iter().filter(|r| r.pid == 2).cloned().collect();
    assert!(spent(&child).1 > 0, "a child said something");
    assert_eq!(system.till.of(&ann), spent(&records));
    assert_eq!(system.till.charged.lock().unwrap().len(), 1, "nobody else pays");
    // One that is ended in its turn pays for what there is of it.
    let first = spent(&records[..2]).0;
    let budget = Budget { tokens: Some(first as u64 + 2), ..Budget::default() };
    let (_, events) = start(&system.kernel, Program { budget, ..program(SESSION) });
    let Event::Done { finish: Finish::Budget(_), counts, .. } = end(&events).1 else {
        panic!("it has no budget left")
    };
    assert_eq!((counts.prompt, counts.generated), (first, 3));
    let (read, written) = spent(&records);
    assert_eq!(system.till.of(&ann), (read + first, written + 3));
    // Turns wait as long as they are told to.
    *system.till.busy.lock().unwrap() = 9;
    let text = said(&system.kernel, program("look {\"to\":1};write {\"to\":\"x\"};"));
    assert_eq!(text, "hmhmwrite({\"to\":\"x\"})");
    assert_eq!(*system.till.busy.lock().unwrap(), 0);
}

#[test]
fn a_quota_that_is_used_up_lets_no_further_turn_begin() {
    let system = system(caller, Paper::default());
    *system.till.most.lock().unwrap() = Some(1);
    // The first turn was judged by whoever let the request in.
    let (pid, events) = start(&system.kernel, program("write {\"to\":\"x\"};"));
    let (text, last) = end(&events);
    let Event::Done { finish: Finish::Budget(why), .. } = last else { panic!("{last:?}") };
    assert_eq!((text.as_str(), why.as_str()), ("hm", "1 tokens for ann"));
    assert_eq!(system.write.keys.lock().unwrap().len(), 1, "what was begun is done");
    let spent = system.till.of(&payer("ann"));
    let exit = until(|| match system.kernel.log(pid, 0).unwrap().pop()?.entry {
        Entry::Exited(exit) => Some(exit),
        _ => None,
    });
    assert_eq!(exit, Exit::Quota("1 tokens for ann".into()));
    // No child begins, either; and it is over for good.
    let (_, events) = start(&system.kernel, program("spawn {\"task\":\"hi\"};wait {\"pid\":3};"));
    end(&events);
    until(|| system.kernel.processes().iter().all(|p| p.exit.is_some()).then_some(()));
    let child = system.kernel.log(Pid(3), 0).unwrap();
    assert!(!child.is_empty() && child.iter().all(|l| !matches!(l.entry, Entry::Said { .. })));
    let records = system.paper.records.lock().unwrap().clone();
    assert_eq!(system.till.of(&payer("ann")), self::spent(&records));
    assert!(system.till.of(&payer("ann")) > spent);
}

#[test]
fn a_summary_is_paid_for_by_whoever_needs_it() {
    let till = Arc::new(Till::default());
    let world = World { billing: Some(till.clone()), ..World::default() };
    let mut small = model(|_| "short".into());
    small.info.context = 2000;
    let kernel = Kernel::start_in(world, vec![small], Options::default());
    let message = |text: &str| Message::new(Role::User, text.repeat(600), Label::default());
    let prompt = Prompt::Chat(["a", "b", "c"].map(message).to_vec());
    let request = Request {
        overflow: Overflow::Summarize,
        tenant: "ann".into(),
        account: "k".into(),
        ..Request::new("m", prompt)
    };
    let (sender, events) = channel();
    kernel.complete(request, Box::new(sender)).expect("fits");
    let (_, last) = end(&events);
    assert!(matches!(last, Event::Done { counts: Counts { dropped: 1.., .. }, .. }), "{last:?}");
    let processes =
        until(|| Some(kernel.processes()).filter(|p| p.iter().all(|p| p.exit.is_some())));
    let summary = processes[0].counts;
    assert!(processes.len() == 2 && summary.generated > 0, "{processes:?}");
    // The answer is charged by whoever asked for it, who sees all of its events.
    assert_eq!(till.of(&payer("ann")), (summary.prompt, summary.generated));
}

/// What another user says decides nothing, whether it is sent or asked for.
#[test]
fn only_its_own_user_speaks_for_a_process() {
    fn obeys(messages: &[Message]) -> String {
        let task = messages[0].text();
        match messages.iter().filter(|message| message.role == Role::Assistant).count() {
            0 => format!("|{task}"),
            1 => {
                let word = last(messages);
                format!("|write {{\"to\":\"{}\"}}", word.rsplit(' ').next().unwrap())
            }
            _ => last(messages),
        }
    }
    for (call, user, trusted) in [
        ("receive {}", "ann", true),
        ("receive {}", "bob", false),
        ("receive {}", "", false),
        ("ask {\"question\":\"where?\"}", "ann", true),
        ("ask {\"question\":\"where?\"}", "bob", false),
    ] {
        let system = system(obeys, Paper::default());
        let (pid, events) = start(&system.kernel, program(call));
        match call.starts_with("receive") {
            true => system.kernel.mail(pid, user, "to elsewhere".into()).expect("is taken"),
            false => {
                until(|| system.kernel.says(pid, user, Says::Text("to elsewhere".into())).ok())
            }
        }
        if !trusted {
            let life = until(|| {
                let processes = system.kernel.processes();
                let asking = processes.iter().any(|p| p.pid == pid && p.state == State::Asking);
                asking.then(|| system.kernel.look(pid)).flatten().filter(|life| life.turns == 2)
            });
            assert!(system.write.keys.lock().unwrap().is_empty(), "{call} {user}");
            let label = &life.messages.last_chunk::<2>().unwrap()[0].label();
            assert!(label.sources.contains(Sources::OTHER_USER), "{call} {user}: {label:?}");
            assert_eq!(label.origins.iter().next().unwrap(), &format!("user {user:?}"));
            assert!(label.readers.includes("ann") && label.readers.includes(user));
            // Nor can another user allow what its words have led to.
            let allow = |user, allow| system.kernel.says(pid, user, Says::Allow(life.key(), allow));
            let refused = allow(user, true).expect_err("it is not their process").to_string();
            assert!(refused.contains("the user ann"), "{refused}");
            allow("ann", true).expect("it is hers");
        }
        assert_eq!(end(&events).0, "write({\"to\":\"elsewhere\"})", "{call} {user}");
    }
    // Anybody may forbid.
    let system = system(obeys, Paper::default());
    let (pid, events) = start(&system.kernel, program("receive {}"));
    system.kernel.mail(pid, "bob", "to elsewhere".into()).expect("is taken");
    let life = until(|| system.kernel.look(pid).filter(|life| life.turns == 2));
    until(|| system.kernel.says(pid, "bob", Says::Allow(life.key(), false)).ok());
    assert_eq!(end(&events).0, "a user said no");
}

#[test]
fn a_log_is_read_on_from_where_one_stands() {
    let system = system(caller, Paper::default());
    said(&system.kernel, program(SESSION));
    let whole = until(|| {
        let log = system.kernel.log(Pid(1), 0).unwrap();
        matches!(log.last()?.entry, Entry::Exited(_)).then_some(log)
    });
    assert!(whole.len() > 10 && whole.is_sorted_by(|a, b| a.seq < b.seq));
    for (at, one) in whole.iter().enumerate() {
        assert_eq!(system.kernel.log(Pid(1), one.seq).unwrap(), whole[at + 1..]);
    }
    assert_eq!(system.kernel.log(Pid(77), 0).unwrap(), []);
}

/// A journal of a system that did not know who pays.
#[test]
fn an_older_journal_is_read() {
    let began = serde_json::to_value(Entry::Began(Box::new(program("hi")))).unwrap();
    let mut older = began.clone();
    let request = older["began"]["request"].as_object_mut().unwrap();
    assert_eq!(request.remove("account"), Some("k".into()));
    let paper = Paper::default();
    paper.append(&[NewRecord { time_ms: 1, pid: 4, body: older.to_string() }]).unwrap();
    let system = system(caller, paper);
    assert_eq!(system.kernel.resume(|_| Ok(Some(Box::new(Nobody)))), Ok(1));
    until(|| system.kernel.processes().iter().all(|p| p.exit.is_some()).then_some(()));
    let nobody = Payer { tenant: "ann".into(), account: String::new() };
    assert!(system.till.of(&nobody).1 > 0, "the user pays");
}

/// Killed in the middle of a long turn: what was written before is not counted as read.
#[test]
fn the_table_goes_on_counting_after_a_crash() {
    fn long(_: &[Message]) -> String {
        "word ".repeat(60)
    }
    let whole = system(long, Paper::default());
    said(&whole.kernel, program("go"));
    until(|| whole.kernel.processes()[0].exit.clone());
    let expected = whole.kernel.processes().remove(0);
    let records = whole.paper.records.lock().unwrap().clone();
    let wrote = records.iter().filter(|record| record.body.contains("wrote")).count();
    assert!(wrote >= 3, "{records:?}");
    for cut in 1..=1 + wrote {
        let again = system(long, whole.paper.torn(cut));
        let (sender, events) = channel();
        let mut sender = Some(sender);
        let resumed = again
            .kernel
            .resume(|_| Ok(sender.take().map(|sender| Box::new(sender) as Box<dyn Sink>)));
        assert_eq!(resumed, Ok(1), "after {cut} records");
        let table = again.kernel.processes().remove(0);
        assert!(table.counts.generated >= 64 * (cut - 1), "{cut}: {table:?}");
        end(&events);
        until(|| again.kernel.processes()[0].exit.clone());
        let table = again.kernel.processes().remove(0);
        assert_eq!(figures(table.counts), figures(expected.counts), "after {cut} records");
        assert_eq!(table.spent, expected.spent, "after {cut} records");
    }
}

/// A session with everything in it: children, calls, memory.
const SESSION: &str = "look {\"to\":1};write {\"to\":\"x\"};spawn {\"task\":\"look {\\\"to\\\":2}\",\
    \"tools\":[\"look\"]};wait {\"pid\":2};remember {\"text\":\"x\"};recall {\"query\":\"x\"};";

/// Whatever the last record before a crash is, the session ends as if nothing had happened, and a
/// tool that changes something is called once, or said to be unknown.
#[test]
fn a_crash_after_any_record_changes_nothing() {
    let whole = system(caller, Paper::default());
    let expected = said(&whole.kernel, program(SESSION));
    let records = until(|| {
        let records = whole.paper.records.lock().unwrap().clone();
        let over = |pid| records.iter().any(|r| r.pid == pid && r.body.contains("exited"));
        (over(1) && over(2)).then_some(records)
    });
    drop(whole.kernel);
    let pid = |pid| move |p: &yushan_kernel::Process| p.pid == Pid(pid);
    let mut unknown = 0;
    for cut in 1..records.len() {
        let alive = records[..cut].iter().all(|r| r.pid != 1 || !r.body.contains("exited"));
        let paper = whole.paper.torn(cut);
        let again = system(caller, paper.clone());
        let (sender, events) = channel();
        let mut sender = Some(sender);
        let resumed = again.kernel.resume(|life| {
            let sink = sender.take_if(|_| life.pid == Pid(1));
            Ok(Some(sink.map_or(Box::new(Nobody) as Box<dyn Sink>, |sink| Box::new(sink))))
        });
        assert!(resumed.is_ok_and(|count| count >= usize::from(alive)), "after {cut} records");
        if !alive {
            continue;
        }
        let (text, last) = end(&events);
        assert!(matches!(last, Event::Done { finish: Finish::End, .. }), "{cut}: {last:?}");
        assert!(text.ends_with("- x\n"), "its reader misses what was said: {cut} {text:?}");
        let writes = |records: &[Record], what: &str| {
            records.iter().filter(|r| r.pid == 1 && r.body.contains(what)).count()
        };
        // Before the crash it was called if the call was intended there.
        let all = paper.records.lock().unwrap().clone();
        let called = again.write.keys.lock().unwrap().len();
        let before = records[..cut].iter().any(|r| r.pid == 1 && r.body.contains("\"1.2.1\""));
        let told = writes(&all, "may or may not have happened");
        assert_eq!(called + usize::from(before), 1, "after {cut} records");
        unknown += told;
        // Turns are charged once, before the crash or after it, and the table goes on counting.
        until(|| again.kernel.processes().iter().all(|p| p.exit.is_some()).then_some(()));
        // Children may have gone on since.
        let all = paper.records.lock().unwrap().clone();
        let (told, before) = (spent(&all), spent(&records[..cut]));
        let paid = again.till.of(&payer("ann"));
        assert_eq!((paid.0 + before.0, paid.1 + before.1), told, "after {cut} records");
        let lives = yushan_kernel::journal::lives(&paper, 0).expect("is whole");
        let process = again.kernel.processes().into_iter().find(pid(1)).expect("it went on");
        assert_eq!(figures(process.counts), figures(lives[&Pid(1)].life.counts), "{cut}");
        let lost = again.kernel.log(Pid(1), 0).unwrap();
        let answers = lost.iter().filter(|one| matches!(one.entry, Entry::Answered { .. }));
        assert_eq!(answers.count(), 6, "after {cut} records");
    }
    assert_eq!(unknown, 1, "only between intention and answer");
    assert!(expected.ends_with("- x\n"), "{expected}");
}

#[test]
fn a_replay_says_the_same_or_where_it_does_not() {
    let paper = Paper::default();
    let first = system(caller, paper.clone());
    said(&first.kernel, program(SESSION));
    let (bob, wanted) = (payer("bob"), Arc::new(AtomicBool::new(true)));
    let replay = first.kernel.replay(Pid(1), &bob, &wanted).expect("is there");
    assert!(replay.difference.is_none() && replay.turns == 7, "{replay:?}");
    assert!(first.kernel.replay(Pid(9), &bob, &wanted).is_err());
    assert_eq!(first.write.keys.lock().unwrap().len(), 1, "no tool is called again");
    drop(first);
    // Another model: the third turn differs.
    let other = system(
        |messages| match messages.iter().filter(|m| m.role == Role::Assistant).count() {
            2 => "hmm".into(),
            _ => caller(messages),
        },
        paper,
    );
    let replay = other.kernel.replay(Pid(1), &bob, &wanted).expect("is there");
    let difference = replay.difference.expect("says something else");
    assert_eq!((difference.turn, difference.equal, difference.now.as_str()), (3, 2, "m"));
    assert!(difference.journal.contains("spawn"), "{difference:?}");
}

#[test]
fn whoever_asks_for_a_replay_pays_and_ends_it_by_going_away() {
    let paper = Paper::default();
    let first = system(|_| "hi".into(), paper.clone());
    said(&first.kernel, program("go"));
    drop(first);
    let endless = system(|_| "x".repeat(60_000), paper);
    let wanted = Arc::new(AtomicBool::new(true));
    let replayed = std::thread::scope(|scope| {
        let replay = scope.spawn(|| endless.kernel.replay(Pid(1), &payer("bob"), &wanted));
        until(|| endless.kernel.processes().iter().find(|p| p.counts.generated > 1).map(|_| ()));
        wanted.store(false, Ordering::Release);
        replay.join().unwrap()
    });
    assert!(replayed.is_err(), "{replayed:?}");
    let process = endless.kernel.processes().remove(0);
    assert_eq!(process.exit, Some(Exit::Killed));
    let charged = endless.till.charged.lock().unwrap().clone();
    let (who, counts) = charged.first_key_value().unwrap();
    assert_eq!((charged.len(), who), (1, &payer("bob")));
    assert_eq!(figures(*counts), figures(process.counts));
}

/// Whatever record is the first that the disk refuses, the process fails with the disk's words, what was
/// written before is intact, and with room again the session goes on to its end.
#[test]
fn a_full_disk_at_any_record_loses_nothing() {
    let whole = system(caller, Paper::default());
    said(&whole.kernel, program(SESSION));
    let count = whole.paper.verify().unwrap() as usize;
    drop(whole);
    for room in 0..count {
        let system = system(caller, Paper::small(room));
        let (sender, events) = channel();
        match system.kernel.spawn(program(SESSION), Box::new(sender)) {
            Err(refusal) => assert!(refusal.to_string().contains("full"), "{room}: {refusal}"),
            Ok(_) => {
                let (_, last) = end(&events);
                let full = format!("{last:?}");
                assert!(full.contains("no space left"), "{room}: {full}");
            }
        }
        drop(system.kernel);
        let kept = system.paper.records.lock().unwrap().len();
        assert!(kept <= room);
        // With room again.
        let again = self::system(caller, system.paper.torn(kept));
        let (sender, events) = channel();
        let mut sender = Some(sender);
        let back = again.kernel.resume(|life| {
            let sink = sender.take_if(|_| life.pid == Pid(1));
            Ok(Some(sink.map_or(Box::new(Nobody) as Box<dyn Sink>, |sink| Box::new(sink))))
        });
        if back.unwrap() > 0 && sender.is_none() {
            let (_, last) = end(&events);
            assert!(matches!(last, Event::Done { finish: Finish::End, .. }), "{room}: {last:?}");
        }
    }
}

/// A disk that fails once, at any write: the session ends well, if the write was done again, or fails with the
/// disk's words; what is in the journal is a life without a hole, which goes on or is over.
#[test]
fn one_write_that_fails_leaves_no_hole() {
    let whole = system(caller, Paper::default());
    let expected = said(&whole.kernel, program(SESSION));
    let count = whole.paper.verify().unwrap() as usize;
    drop(whole);
    let mut failed = 0;
    for write in 1..=count {
        let system = system(caller, Paper::faulty(write));
        let (sender, events) = channel();
        if system.kernel.spawn(program(SESSION), Box::new(sender)).is_ok() {
            let (text, last) = end(&events);
            match last {
                Event::Done { finish: Finish::End, .. } => assert_eq!(text, expected, "{write}"),
                other => {
                    assert!(format!("{other:?}").contains("input/output error"), "{other:?}");
                    failed += 1;
                }
            }
        }
        drop(system.kernel);
        let kept = system.paper.verify().unwrap() as usize;
        let lives = yushan_kernel::journal::lives(&system.paper, 0).expect("is whole");
        for told in lives.values() {
            let said = told.life.messages.iter().filter(|m| m.role == Role::Assistant).count();
            assert_eq!(said as u64, told.life.turns, "{write}");
        }
        let again = self::system(caller, system.paper.torn(kept));
        assert!(again.kernel.resume(|_| Ok(Some(Box::new(Nobody)))).is_ok(), "{write}");
        until(|| again.kernel.processes().iter().all(|p| p.exit.is_some()).then_some(()));
    }
    println!("{failed} of {count} failed with the disk's words");
}

/// Whoever cannot say now whether an answer is wanted ends the start, and nothing else.
#[test]
fn what_cannot_be_read_at_a_start_ends_no_process() {
    let first = system(caller, Paper::default());
    start(&first.kernel, program("receive {};"));
    start(&first.kernel, program("receive {};"));
    drop(first.kernel);
    let kept = first.paper.records.lock().unwrap().clone();
    let second = system(caller, first.paper.torn(kept.len()));
    let (sender, events) = channel();
    let resumed = second.kernel.resume(|life| match life.pid {
        Pid(1) => Ok(Some(Box::new(sender.clone()))),
        _ => Err(DiskError::Failed("input/output error".into())),
    });
    assert_eq!(resumed, Err(DiskError::Failed("input/output error".into())));
    assert_eq!(end(&events).1, Event::Failed(Refusal::Stopping), "it goes on at the next start");
    assert_eq!(*second.paper.records.lock().unwrap(), kept);
    assert_eq!(second.kernel.resume(|_| Ok(Some(Box::new(Nobody)))), Ok(2));
}

#[test]
fn the_journal_of_a_killed_process_says_so_and_it_does_not_come_back() {
    let paper = Paper::default();
    let first = system(caller, paper.clone());
    let (pid, events) = start(&first.kernel, program("receive {};"));
    let (stays, _) = start(&first.kernel, program("receive {};"));
    until(|| {
        let all = first.kernel.processes();
        all.iter().all(|p| p.state == State::Receiving).then_some(())
    });
    // Held, it does not read its mail; let go on, it does.
    let (held, heard) = start(&first.kernel, program("look {\"to\":1};receive {};"));
    until(|| first.kernel.look(held).filter(|life| life.turns == 2));
    assert_eq!(first.kernel.signal(held, yushan_kernel::Signal::Stop), Ok(true));
    first.kernel.mail(held, "ann", "go".into()).expect("is taken");
    assert_eq!(first.kernel.look(held).expect("is there").answered, 2);
    assert_eq!(first.kernel.look(held).expect("is there").turns, 2);
    assert_eq!(first.kernel.signal(held, yushan_kernel::Signal::Continue), Ok(true));
    assert_eq!(end(&heard).0, "hmhmfrom the user: go");
    assert_eq!(first.kernel.signal(pid, yushan_kernel::Signal::Kill), Ok(true));
    assert!(matches!(end(&events).1, Event::Done { finish: Finish::Cancelled, .. }));
    assert_eq!(first.kernel.signal(pid, yushan_kernel::Signal::Kill), Ok(false));
    drop(first);
    let second = system(caller, paper);
    assert_eq!(second.kernel.resume(|_| Ok(Some(Box::new(Nobody)))).unwrap(), 1);
    assert_eq!(second.kernel.processes()[0].pid, stays);
    let log = second.kernel.log(pid, 0).unwrap();
    assert!(
        matches!(log.last(), Some(Logged { entry: Entry::Exited(Exit::Killed), .. })),
        "{log:?}"
    );
    second.kernel.mail(stays, "ann", "still here?".into()).expect("it waits for messages again");
    until(|| second.kernel.processes().iter().all(|p| p.exit.is_some()).then_some(()));
}
