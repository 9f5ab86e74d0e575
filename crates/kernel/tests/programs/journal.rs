//! The journal that programs go on from.

use super::*;

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
