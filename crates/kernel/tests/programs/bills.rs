//! Who pays for what programs use.

use super::*;

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
