//! Children, messages, questions, and who may speak for a process.

use super::*;

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
