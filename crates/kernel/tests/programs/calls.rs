//! Calls: what a model asks for, and what is done about it.

use super::*;

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

/// What a user allows is one call: the one beside it is asked for by itself.
#[test]
fn what_is_allowed_is_one_call() {
    let system = system(caller, Paper::default());
    let modes = BTreeMap::from([("look".to_string(), Mode::Ask)]);
    let both = program("look {\"to\":1}|look {\"to\":2};");
    let (pid, events) = start(&system.kernel, Program { modes, ..both });
    let mut asked = Vec::new();
    for (said, made) in [(true, 1), (false, 1)] {
        let key = loop {
            match events.recv_timeout(Duration::from_secs(20)).expect("it asks") {
                Event::Asks { key, .. } => break key,
                Event::Done { .. } => panic!("only {asked:?} were asked for"),
                _ => {}
            }
        };
        system.kernel.says(pid, "ann", Says::Allow(key.clone(), said)).unwrap();
        asked.push(key);
        until(|| (system.read.keys.lock().unwrap().len() == made).then_some(()));
    }
    assert_eq!(end(&events).0, "a user said no");
    assert_eq!(*system.read.keys.lock().unwrap(), [asked[0].clone()]);
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
