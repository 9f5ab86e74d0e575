use super::*;

fn line(step: u64, loss: f64) -> Line {
    Line { step, tokens: step * 64, loss: Some(loss), lr: Some(1e-3), ..Line::default() }
}

/// Steps `1..=last`, an event with every seventh.
fn written(run: &Path, from: u64, last: u64) -> Writer {
    let mut writer = match from {
        0 => Writer::create(run).unwrap(),
        from => Writer::resume(run, from).unwrap().0,
    };
    for step in from + 1..=last {
        let mut line = line(step, 5.0 / step as f64);
        line.event = (step % 7 == 0).then(|| Event::new(EventKind::Checkpoint, "kept"));
        writer.append(&line).unwrap();
    }
    writer
}

#[test]
fn a_log_cut_at_any_byte_resumes_to_the_bytes_of_an_unbroken_one() {
    let whole = tempfile::tempdir().unwrap();
    drop(written(whole.path(), 0, 11));
    let text = std::fs::read(whole.path().join(LOG)).unwrap();
    assert_eq!(Log::of(&text[..]).unwrap().lines.len(), 11);
    let run = tempfile::tempdir().unwrap();
    // No multiple of a line's length: every place in a line comes up.
    for cut in (0..=text.len()).step_by(3) {
        std::fs::write(run.path().join(LOG), &text[..cut]).unwrap();
        let lines = text[..cut].iter().filter(|&&byte| byte == b'\n').count() as u64;
        // The checkpoint is older than the last line of the log.
        let step = lines.saturating_sub(3).max(1).min(lines);
        let (writer, kept) = Writer::resume(run.path(), step).unwrap();
        drop(writer);
        assert!(kept.dropped + step >= lines, "{cut}: {kept:?}");
        assert_eq!(kept.last.map_or(0, |line| line.step), step);
        if step == 0 {
            std::fs::remove_file(run.path().join(LOG)).unwrap();
        }
        drop(written(run.path(), step, 11));
        assert!(std::fs::read(run.path().join(LOG)).unwrap() == text, "cut at {cut}");
    }
}

#[test]
fn a_log_is_not_written_over() {
    let run = tempfile::tempdir().unwrap();
    drop(written(run.path(), 0, 2));
    let error = Writer::create(run.path()).unwrap_err().to_string();
    assert!(error.contains("already holds a run"), "{error}");
    let error = Log::read(&run.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("no log.jsonl there") && error.contains("nowhere"), "{error}");
}

#[test]
fn going_back_from_a_spike_leaves_one_curve_and_the_event() {
    let run = tempfile::tempdir().unwrap();
    let mut writer = written(run.path(), 0, 10);
    let kept = writer.rewind(6).unwrap();
    assert_eq!((kept.dropped, kept.torn), (4, 0));
    let event = Event {
        at: Some(10),
        loss: Some(f64::INFINITY),
        ..Event::new(EventKind::SpikeRolledBack, "rows 40 to 47 are left out")
    };
    let told = Line { step: 6, event: Some(event), ..Line::default() };
    writer.append(&told).unwrap();
    writer.append(&line(7, 0.5)).unwrap();
    let log = Log::read(run.path()).unwrap();
    assert_eq!(
        log.lines.iter().map(|line| line.step).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 6, 7]
    );
    assert_eq!(log.lines[6], told);
    assert_eq!((log.problem_count, log.torn), (0, false));
}

#[test]
fn what_is_no_line_is_counted_and_left_out() {
    let long = format!("{{\"step\":9,\"x\":\"{}\"}}\n", "y".repeat(LONGEST as usize));
    for (text, steps, problems, torn) in [
        ("", vec![], 0, false),
        ("\n \n", vec![], 0, false),
        ("{\"step\":1}\nnonsense\n{\"step\":2,\"loss\":1}\n", vec![1, 2], 1, false),
        ("{\"step\":-1}\n[1]\n{\"loss\":3}\n{\"step\":1e400}\n", vec![], 4, false),
        ("\u{feff}\0\0\0\n{\"step\":3}\n{\"step\":4,\"lo", vec![3], 1, true),
        ("{\"step\":3}", vec![3], 0, false),
        (
            "{\"step\":1,\"loss\":1}\n{\"step\":2,\"loss\":1}\n{\"step\":1,\"loss\":2}\n",
            vec![1],
            2,
            false,
        ),
        (
            "{\"step\":1,\"loss\":\"often\"}\n{\"step\":1,\"loss\":null,\"new\":[]}\n",
            vec![1],
            1,
            false,
        ),
        (&(long + "{\"step\":10}\n"), vec![10], 1, false),
    ] {
        let log = Log::of(text.as_bytes()).unwrap();
        let got: Vec<_> = log.lines.iter().map(|line| line.step).collect();
        assert_eq!(
            (got, log.problem_count, log.torn),
            (steps, problems, torn),
            "{:?}",
            log.problems
        );
    }
    let many = "x\n".repeat(10_000);
    let log = Log::of(many.as_bytes()).unwrap();
    assert_eq!((log.problems.len(), log.problem_count), (PROBLEMS, 10_000));
}

#[test]
fn numbers_that_are_none_survive_the_file() {
    let run = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(run.path()).unwrap();
    let other = EventKind::Other("of_tomorrow".into());
    for (loss, kind) in [
        (f64::NAN, EventKind::NanSkipped),
        (f64::INFINITY, other.clone()),
        (f64::NEG_INFINITY, EventKind::FellBack),
        (0.1 + 0.2, EventKind::Finished),
    ] {
        let event = Some(Event::new(kind, "“quoted”\n"));
        writer.append(&Line { event, ..line(1, loss) }).unwrap();
        let text = std::fs::read_to_string(run.path().join(LOG)).unwrap();
        let back: Line = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let got = back.loss.unwrap();
        assert!(got == loss || (got.is_nan() && loss.is_nan()), "{got} {loss}");
        assert_eq!(back.event.unwrap().detail, "“quoted”\n");
    }
    let text = std::fs::read_to_string(run.path().join(LOG)).unwrap();
    assert!(text.starts_with("{\"step\":1,\"tokens\":64,\"loss\":\"NaN\",\"lr\":0.001,"), "{text}");
    assert!(text.contains("\"kind\":\"of_tomorrow\""), "{text}");
}
