use std::path::Path;

use super::*;
use crate::evaluate::{Accuracy, BitsPerByte, Interval};

/// A run that looks like one: 900 of 1000 steps, a spike, a step that is no number, two hold-outs.
fn run(seed: u64) -> Run {
    let mut log = Log::default();
    let mut random = crate::evaluate::Random(seed);
    let mut noise = move || random.below(1000) as f64 / 1000.0 - 0.5;
    for step in 1..=1000u64 {
        let at = step as f64;
        let mut line = Line {
            step,
            tokens: step * 32_768,
            loss: Some(2.9 + 12.0 / (at + 2.0).sqrt() + 0.12 * noise()),
            bpb: Some(1.0 + 3.0 / at.sqrt()),
            lr: Some(1e-3 * (at / 100.0).min(1.0).min((1000.0 - at) / 200.0)),
            grad_norm: Some(0.6 + 5.0 / at + 0.2 * noise().abs()),
            tokens_per_s: Some(11_300.0 + 900.0 * noise()),
            peak_share: Some(0.61),
            seconds: Some(at * 2.9),
            ..Line::default()
        };
        if step == 400 {
            line.loss = Some(f64::NAN);
            line.event = Some(Event::new(EventKind::NanSkipped, "gradient of layer 3"));
        }
        if step == 601 {
            line.loss = Some(9.5);
        }
        if step == 700 {
            line.event = Some(Event {
                at: Some(721),
                loss: Some(7.25),
                ..Event::new(EventKind::SpikeRolledBack, "rows 23000 to 23015 are left out")
            });
        }
        if step % 100 == 0 {
            for (name, more) in [("stories", 0.05), ("wikitext2", 0.6)] {
                let loss = 2.95 + more + 12.0 / at.sqrt();
                let score = BitsPerByte {
                    bpb: Some(loss / 2.6),
                    loss: Some(loss),
                    tokens: 60_000,
                    bytes: 230_000,
                    documents: 120,
                    interval: Some(Interval {
                        value: loss / 2.6,
                        low: loss / 2.7,
                        high: loss / 2.5,
                    }),
                };
                line.eval.insert(name.to_owned(), score);
            }
            line.eval.insert("empty".to_owned(), BitsPerByte::default());
            line.sample = vec![Sample {
                prompt: "Once upon".into(),
                text: format!(" a time, 玉山 <b>step</b> {step}\u{1b}[31m\nand so on"),
                seed: 1,
                temperature: 0.8,
            }];
        }
        if step == 1000 {
            let accuracy = Interval::of_share(131, 400);
            let task =
                Accuracy { items: 400, skipped: 3, accuracy, normalised: accuracy, chance: 0.25 };
            line.tasks.insert("cloze".into(), task);
            line.event = Some(Event::new(EventKind::Finished, ""));
        }
        log.lines.push(line);
    }
    Run { log, file: file(seed) }
}

/// A predicted loss, of so few digits that JSON gives its bits back.
fn rounded(at: u64) -> (u64, f64) {
    let loss = 2.9 + 13.0 / ((at * 50) as f64).sqrt();
    (at * 50, (loss * 1e4).round() / 1e4)
}

fn file(seed: u64) -> RunFile {
    let expected = |value: f64, share: f64| {
        Some(Expected {
            value,
            low: Some(value * (1.0 - share)),
            high: Some(value * (1.0 + share)),
        })
    };
    RunFile {
        name: format!("stories-{seed}"),
        recipe: "depth = 6\n[data]\ntrain = \"<shards>\"\n".into(),
        commands: vec![format!("yushan train pretrain runs/stories.toml --seed {seed}")],
        shape: serde_json::json!({"layers": 6, "dim": 384}),
        parameters: Some(27_000_000),
        embedding_parameters: Some(3_000_000),
        steps: Some(1000),
        seed: Some(seed),
        environment: environment(2, Some(1.1e11)),
        data: vec![DataFile {
            name: "shards/train".into(),
            role: "train".into(),
            sha256: "ab".repeat(32),
            tokens: Some(33_000_000),
            ..DataFile::default()
        }],
        code: Some("0123abc".into()),
        price: Some(Price { per_hour: 0.08, currency: "USD".into() }),
        predicted: Some(Predicted {
            loss: expected(3.3, 0.02),
            hold_out: Some("stories".into()),
            seconds: expected(3200.0, 0.05),
            cost: expected(0.0644, 0.1),
            curve: (1..=20).map(rounded).collect(),
            by: "approach 3, 12 runs".into(),
        }),
        ..RunFile::default()
    }
}

/// Checks that tags are closed in order; gives the texts between them.
fn texts(svg: &str) -> Vec<String> {
    let (mut open, mut found) = (Vec::new(), Vec::new());
    let mut rest = svg.trim();
    while let Some((text, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        if !text.trim().is_empty() {
            found.push(text.trim().to_owned());
        }
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name.to_owned()), "{tag}");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap_or_default().to_owned());
        }
    }
    assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
    found
}

#[test]
fn a_card_holds_what_is_needed_to_believe_and_to_repeat() {
    let card = card(&[run(1)]).unwrap();
    let names: Vec<_> = card.plots.iter().map(|plot| plot.0.as_str()).collect();
    let all = [
        "predicted",
        "loss",
        "bits-per-byte",
        "learning-rate",
        "gradient-norm",
        "tokens-per-second",
    ];
    assert_eq!(names, all.map(|name| format!("{name}.svg")));
    for (page, form) in [(&card.html, "html"), (&card.markdown, "md")] {
        for word in [
            "Report card 成績單: stories-1",
            "27\u{202f}000\u{202f}000",
            "finished",
            "nats a token (mean of the last 19 steps)",
            "on wikitext2",
            "empty is empty",
            "the loss is no number at 1 step",
            "Steps: 400.",
            "approach 3, 12 runs",
            "loss spike rolled back",
            "seen at step 721",
            "rows 23000 to 23015",
            "gradient of layer 3",
            "131",
            "32.8 %",
            "0.06 USD",
            "not counted",
            "GFLOP/s",
            "0123abc",
            "depth = 6",
            "yushan train pretrain runs/stories.toml --seed 1",
            "玉山",
            "0:48:20",
        ] {
            let word = if word == "131" { "abababab" } else { word };
            assert!(page.contains(word), "{form}: {word}");
        }
        assert!(!page.contains('\u{1b}'), "{form}");
    }
    assert!(!card.html.contains("<b>step</b>") && card.html.contains("&lt;b&gt;step&lt;/b&gt;"));
    for forbidden in ["<script", "http://", "https://", "src=", "@import", "url("] {
        let page = card.html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for word in ["Samples 樣本", "| stories-1 | loss on stories |", "![", "](plots/loss.svg)"] {
        assert!(card.markdown.contains(word), "{word}");
    }
}

#[test]
fn a_plot_has_its_axes_and_its_legend() {
    let card = card(&[run(1)]).unwrap();
    for (name, svg) in &card.plots {
        assert!(svg.starts_with("<svg viewBox=\"0 0 1600 900\""), "{name}: {}", &svg[..80]);
        assert!(svg.contains("prefers-color-scheme: dark"), "{name}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
        assert!(svg.len() < 200_000, "{name}: {}", svg.len());
        let texts = texts(svg);
        let numbers = texts.iter().filter(|text| text.parse::<f64>().is_ok()).count();
        assert!(numbers >= 5, "{name}: {texts:?}");
        let expected: &[&str] = match name.as_str() {
            "loss.svg" => &[
                "Loss 損失",
                "step",
                "nats a token",
                "training",
                "stories",
                "wikitext2",
                "predicted",
                "not a number",
                "rolled back",
                "1000",
            ],
            "bits-per-byte.svg" => &["bits a byte", "stories", "wikitext2"],
            "learning-rate.svg" => &["learning rate", "step"],
            "predicted.svg" => &["loss on stories", "seconds", "cost"],
            _ => &["step"],
        };
        for word in expected {
            assert!(texts.iter().any(|text| text == word), "{name}: {word} in {texts:?}");
        }
    }
    // The step that is no number parts the smoothed curve and the pale one.
    let loss = &card.plots.iter().find(|plot| plot.0 == "loss.svg").unwrap().1;
    let blue = loss.matches("<polyline").filter(|_| true).count();
    assert!(blue >= 6, "{blue} lines");
}

#[test]
fn several_runs_have_a_mean_with_an_interval_or_a_reason() {
    let runs = [run(1), run(2), run(3)];
    let both = card(&runs).unwrap();
    for word in [
        "stories-1 and 2 more",
        "Mean (95 % interval)",
        "bits per byte on stories",
        "seeds 1, 2, 3",
    ] {
        assert!(both.html.contains(word), "{word}");
    }
    let facts: Vec<f64> = runs.iter().map(|run| run.facts().loss.unwrap()).collect();
    let mean = Interval::of_mean(&facts).unwrap();
    let shown = format!("{:.3} ({:.3} to {:.3})", mean.value, mean.low, mean.high);
    assert!(both.markdown.contains(&shown), "{shown}");
    let mut other = run(4);
    other.file.shape = serde_json::json!({"layers": 7});
    let apart = card(&[run(1), other]).unwrap();
    assert!(apart.html.contains("are not of one shape and length: no mean"));
    let mut other = run(4);
    other.file.recipe = "name = \"x\"\nseed = 9\n".to_owned() + &other.file.recipe;
    let seeded = card(&[run(1), other.clone()]).unwrap().html;
    assert!(
        seeded.contains("Mean (95 % interval)") && !seeded.contains("differs from"),
        "{seeded}"
    );
    other.file.recipe = other.file.recipe.replace("depth = 6", "depth = 5");
    let apart = card(&[run(1), other]).unwrap().html;
    assert!(apart.contains("differ in more than their seed") && apart.contains("in recipe"));
    let mut cut = run(5);
    cut.log.lines.truncate(500);
    assert!(card(&[run(1), cut]).unwrap().html.contains("have not all finished"));
    assert!(card(&[]).unwrap_err().to_string().contains("expected at least one"));
}

#[test]
fn a_run_with_nothing_in_it_has_a_card_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = Run::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no log.jsonl there"), "{error}");
    for text in ["", "\0\0nonsense\n[1]\n", "{\"step\":3,\"loss\":\"NaN\"}\n{\"step\":4,\"los"] {
        std::fs::write(folder.path().join(LOG), text).unwrap();
        let run = Run::read(folder.path()).unwrap();
        let card = card(std::slice::from_ref(&run)).unwrap();
        assert!(card.html.contains("The run does not hold its commands."));
        assert!(card.html.contains("The log holds nothing to draw."), "{text}");
        assert!(card.plots.is_empty());
        assert!(!watch::screen(&run, 100, 30).is_empty());
        card.write(folder.path()).unwrap();
        let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert_eq!(page, card.html);
    }
    std::fs::write(folder.path().join(RUN_FILE), "{\"steps\": \"many\"}").unwrap();
    let error = Run::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("run.json") && error.contains("expected what"), "{error}");
}

#[test]
fn a_run_file_survives_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let written = file(7);
    written.write(folder.path()).unwrap();
    assert_eq!(RunFile::read(folder.path()).unwrap(), written);
    let nameless = RunFile::read(Path::new("/nowhere/of/this/name")).unwrap();
    assert_eq!(nameless.name, "name");
}

#[test]
fn a_screen_fits_and_cannot_be_steered() {
    let run = run(1);
    for (width, height) in
        [(120, 40), (100, 24), (80, 50), (40, 12), (20, 5), (1, 1), (300, 100), (0, 0)]
    {
        let screen = watch::screen(&run, width, height);
        let lines: Vec<&str> = screen.lines().collect();
        assert!(lines.len() <= height, "{width}x{height}: {}", lines.len());
        for line in &lines {
            let cells: usize = line.chars().map(terminal::cells).sum();
            assert!(cells <= width, "{width}x{height}: {cells} {line}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
        if width >= 80 && height >= 24 {
            for word in [
                "stories-1 · step 1000/1000 (100 %)",
                "loss",
                "learning rate  0",
                "gradient norm",
                "Once upon⏵ a time",
            ] {
                assert!(screen.contains(word), "{width}x{height}: {word}\n{screen}");
            }
        }
    }
}

#[test]
fn dots_stand_where_the_points_are() {
    let points: Vec<_> = (0..=100).map(|x| (f64::from(x), f64::from(x))).collect();
    let plot = terminal::plot("up", &points, 40, 12);
    let lines: Vec<&str> = plot.lines().collect();
    assert_eq!(lines.len(), 12);
    assert!(lines[0] == "up" && lines[11].ends_with("100"), "{plot}");
    let first = |line: &str| line.chars().position(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
    let places: Vec<_> = lines[1..11].iter().filter_map(|line| first(line)).collect();
    assert!(places.len() == 10 && places.is_sorted_by(|a, b| a > b), "{places:?}\n{plot}");
    let mut gap = points.clone();
    gap[30..70].iter_mut().for_each(|point| point.1 = f64::NAN);
    let dots = |plot: &str| plot.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count();
    assert!(dots(&terminal::plot("gap", &gap, 40, 12)) < dots(&plot) - 8);
    for points in [&[][..], &[(1.0, f64::NAN)], &[(1.0, 2.0)], &[(1.0, f64::INFINITY), (2.0, 1.0)]]
    {
        let plot = terminal::plot("few", points, 40, 8);
        assert!(plot.starts_with("few"), "{plot}");
    }
    assert_eq!(terminal::plot("small", &points, 10, 3), "");
}

/// Into the folder that `YUSHAN_REPORT` names, for looking at it, or into one that goes away.
#[test]
fn a_card_is_written_as_a_page_a_text_and_plots() {
    let gone = tempfile::tempdir().unwrap();
    let named = std::env::var_os("YUSHAN_REPORT").map(std::path::PathBuf::from);
    let folder = named.unwrap_or(gone.path().to_path_buf()).join("of one");
    std::fs::create_dir_all(&folder).unwrap();
    let all = [run(1), run(2), run(3)];
    let three = folder.with_file_name("of three");
    std::fs::create_dir_all(&three).unwrap();
    card(&all).unwrap().write(&three).unwrap();
    card(&all).unwrap().write(&folder).unwrap();
    card(&all[..1]).unwrap().write(&folder).unwrap();
    let text = std::fs::read_to_string(folder.join("report.md")).unwrap();
    let linked: Vec<_> =
        text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert_eq!(linked.len(), 6);
    for path in linked {
        let svg = std::fs::read_to_string(folder.join(path)).unwrap();
        assert!(svg.contains("<svg") && svg.ends_with("</svg>\n"), "{path}");
    }
    let left = |name: &str| name.ends_with(".new");
    let files = std::fs::read_dir(&folder).unwrap().flatten();
    assert!(!files.map(|file| file.file_name()).any(|name| left(&name.to_string_lossy())));
    println!("{}", watch::screen(&all[0], 120, 40));
    let error = card(&all).unwrap().write(&folder.join("report.md")).unwrap_err().to_string();
    assert!(error.contains("plots"), "{error}");
}

/// Numbers and names as nobody writes them: a report is still made, in bounded time.
#[test]
fn no_log_can_stop_a_report() {
    let numbers = [
        "0",
        "-1",
        "1e-320",
        "1e29",
        "1e308",
        "-1e308",
        "\"NaN\"",
        "\"inf\"",
        "null",
        "7.000000000000001",
    ];
    let mut random = crate::evaluate::Random(5);
    for round in 0..60 {
        let mut text = String::new();
        for step in [0, 1, 2, 3, u64::MAX - 1, u64::MAX] {
            let mut pick = || numbers[random.below(numbers.len())];
            let fields: Vec<String> =
                ["loss", "lr", "grad_norm", "tokens_per_s", "seconds", "joules", "bpb"]
                    .iter()
                    .map(|field| format!("\"{field}\":{}", pick()))
                    .collect();
            let eval = format!("{{\"x\":{{\"bpb\":{},\"loss\":{},\"tokens\":1}}}}", pick(), pick());
            text += &format!("{{\"step\":{step},{},\"eval\":{eval}}}\n", fields.join(","));
        }
        let log = Log::of(text.as_bytes()).unwrap();
        assert_eq!((log.lines.len(), log.problem_count), (6, 0), "{:?}", log.problems);
        let mut run = Run { log, file: file(1) };
        let value = [0.0, 1e308, f64::NAN, -3.0, 1e-320, 2.0][round % 6];
        let wrong = Some(Expected { value, low: Some(-value), high: Some(value * 2.0) });
        run.file.predicted = Some(Predicted {
            loss: wrong,
            seconds: wrong,
            curve: vec![(u64::MAX, value), (0, value)],
            hold_out: Some("x".into()),
            ..Predicted::default()
        });
        run.file.price = Some(Price { per_hour: value, currency: "€".repeat(200) });
        run.file.name = "玉山<>".repeat(100);
        run.file.steps = Some(u64::MAX);
        let card = card(&[run.clone(), run.clone()]).unwrap();
        for (_, svg) in &card.plots {
            texts(svg);
            assert!(svg.len() < 200_000);
        }
        let screen = watch::screen(&run, 100, 30);
        let cells = |line: &str| line.chars().map(terminal::cells).sum::<usize>();
        assert!(screen.lines().all(|line| cells(line) <= 100), "{screen}");
    }
}

proptest::proptest! {
    #[test]
    fn a_damaged_log_is_read_as_far_as_it_goes(
        at in proptest::collection::vec((0usize..4000, proptest::num::u8::ANY), 0..20),
    ) {
        let mut bytes = Vec::new();
        for line in &run(1).log.lines[395..405] {
            serde_json::to_writer(&mut bytes, line).unwrap();
            bytes.push(b'\n');
        }
        for (place, byte) in at {
            let length = bytes.len();
            bytes[place % length] = byte;
        }
        let log = Log::of(&bytes[..]).unwrap();
        let lines = bytes.split(|&byte| byte == b'\n').count();
        proptest::prop_assert!(log.lines.len() + log.problem_count <= 2 * lines);
        card(&[Run { log, file: RunFile::default() }]).unwrap();
    }
}
