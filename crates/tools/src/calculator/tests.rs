use yushan_abi::{Label, Sources};

use super::*;

fn value(expression: &str) -> Result<String, String> {
    compute(expression, &Cancel::default())
}

#[test]
fn values_are_exact() {
    let mut wrong = Vec::new();
    for (expression, expected) in [
        ("2 + 3 * 4", "14"),
        ("0.1 + 0.2", "0.3"),
        ("2^100", "1267650600228229401496703205376"),
        ("2**10", "1024"),
        ("1/3 + 1/6", "0.5"),
        ("1/3", "approx. 0.3333333333 (exactly 1/3)"),
        ("22/7", "approx. 3.1428571429 (exactly 22/7)"),
        ("22/7 to mixed_fraction", "3 1/7"),
        ("30!/28!", "870"),
        ("10 choose 3", "120"),
        ("7 mod 3", "1"),
        ("7 % 3", "1"),
        ("-2^2", "-4"),
        ("2^3^2", "512"),
        ("1e3 + 1", "1001"),
        ("0xff to decimal", "255"),
        ("255 to hex", "ff"),
        ("１２ × ３ ÷ ４", "9"),
        ("rate = 5%; 200 * rate", "10"),
        // Percentages.
        ("15% of 80", "12"),
        ("80 * 115%", "92"),
        ("80 * (1 + 15%)", "92"),
        ("12% + 3%", "0.15"),
        ("(120 - 80) / 80 to percent", "50 percent"),
        ("(120 - 80) / 80 to %", "50%"),
        ("(90 - 120) / 120 to %", "-25%"),
        ("100 * (1 + 5%)^10", "162.889462677744140625"),
        // Functions.
        ("sqrt(144)", "12"),
        ("1/3 to 20 dp", "approx. 0.33333333333333333333"),
        ("sqrt(2) to 15 sf", "approx. 1.41421356237310"),
        // Never digits that are wrong.
        ("sqrt(2) to 30 dp", "approx. 1.41421356237310 (no more than 15 digits are known here)"),
        (
            "rate = 3; exp(rate) to 20 dp",
            "approx. 20.0855369231877 (no more than 15 digits are known here)",
        ),
        ("cbrt(27)", "3"),
        ("abs(-3)", "3"),
        ("floor(-2.5)", "-3"),
        ("ceil(2.1)", "3"),
        ("sin(90 deg)", "1"),
        ("sin(pi/6)", "0.5"),
        ("exp(1)", "approx. 2.7182818285"),
        ("ln(10)", "approx. 2.3025850930"),
        ("sqrt(-4)", "approx. 0 + 2i"),
        // Units.
        ("60 mph to km/h", "96.56064 km / h"),
        ("5 km / (20 min) to km/h", "15 km / h"),
        ("1/2 cup to ml", "118.29411825 ml"),
        ("20 °C to °F", "68 °F"),
        ("1 lb to kg", "0.45359237 kg"),
        ("3 hours + 12 minutes to minutes", "192 minutes"),
        ("1 GiB to MB", "1073.741824 MB"),
        ("1 atm to Pa", "101325 Pa"),
        ("5'3\" to cm", "160.02 cm"),
        ("@2024-02-28 + 2 days", "Friday, 1 March 2024"),
    ] {
        let value = value(expression);
        if value.as_deref() != Ok(expected) {
            wrong.push(format!("{expression}: {value:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_say_where_and_what_to_write() {
    let mut wrong = Vec::new();
    for (expression, expected) in [
        ("", "the expression is empty"),
        ("  ", "the expression is empty"),
        ("2 * foo", "unknown identifier 'foo' (at character 5: `foo`)"),
        ("1 + (2 * 3", "this parenthesis is not closed (at character 5"),
        ("1 + 2)", "no opening one (at character 6"),
        ("3 +", "this cannot be read (at character 3: `+`)"),
        ("2 + 3 4 + 1", "this cannot be read (at character 7: `4 + 1`)"),
        ("1/0 + 5", "division by zero (at character 3: `0 + 5`)"),
        ("5/(2-2) + 1", "division by zero (at character 6: `2) + 1`)"),
        ("1,234 + 1", "without separators; functions have one argument (at character 2"),
        ("max(1, 2)", "without separators"),
        ("7 // 2", "write floor(7 / 2) (at character 3"),
        ("1 + sin 90°", "write sin(…) with its argument in parentheses (at character 5"),
        ("5 km / 20 min", "/ (20 min) (at character 8"),
        ("5 km / 20min", "/ (20 min) (at character 8"),
        ("5 > 3", "unexpected character '>' (at character 3"),
        ("二 + 1", "unknown identifier '二' (at character 1"),
        ("1 kg + 1 m", "are incompatible"),
        ("5 USD to EUR", "currencies are not supported"),
        ("roll d6", "random numbers are not supported"),
        ("today", "the date of today is not known"),
        ("f = x: f x; f 1", "functions of one's own"),
        ("(\\x. x x) (\\x. x x)", "functions of one's own"),
    ] {
        let value = value(expression);
        if !value.as_ref().is_err_and(|error| error.contains(expected)) {
            wrong.push(format!("{expression}: {value:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_too_large_ends_in_time() {
    for (expression, expected) in [
        ("10^10^10", "it takes longer than 2 s"),
        ("99999!", "it takes longer than 2 s"),
        ("1/3 to 100000000 dp", "it takes longer than 2 s"),
        ("2^30000", "characters, and 4000 are shown at most"),
    ] {
        let error = value(expression).unwrap_err();
        assert!(error.contains(expected), "{expression}: {error}");
    }
    for (part, times, end) in [("-", 399, "1"), ("2^", 199, "1"), ("!", 390, ""), ("1 ", 190, "x")]
    {
        let _ = value(&format!("{}{end}", part.repeat(times))); // it comes back
    }
    let nested = |times: usize| format!("{}1{}", "(1+".repeat(times), ")".repeat(times));
    assert_eq!(value(&nested(6)).as_deref(), Ok("7"));
    assert!(value(&nested(40)).unwrap_err().contains("more than 6 parentheses in each other"));
    let _ = value(&format!("{}{}1{}", "(1+".repeat(6), "1+".repeat(180), ")".repeat(6)));
    assert!(value(&"1+".repeat(300)).unwrap_err().contains("longer than 400 bytes"));
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(compute("99999!", &cancel).unwrap_err().contains("stopped"));
}

#[test]
fn nothing_makes_it_panic() {
    let parts = [
        "1", "0", "2.5", "1e5", "x", "kg", "m", "%", "°", "'", "\"", "(", ")", "+", "-", "*", "/",
        "^", "!", "=", ";", "@", "to", "of", "mod", "sqrt(", "pi", "i", "hex", "π", "²", "\u{301}",
        " ", "\n", "0x", "e", "..", "_", "and", "true", "date", "|", "&", "<<", "\u{0}",
    ];
    let mut state = 7_u64;
    for _ in 0..2000 {
        let mut expression = String::new();
        for _ in 0..8 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = usize::try_from(state >> 33).unwrap() % parts.len();
            expression += parts[at];
        }
        let answer = value(&expression);
        let panicked = answer.as_ref().is_err_and(|why| why.contains("the calculator failed"));
        assert!(!panicked, "{expression:?}");
    }
}

#[test]
fn a_result_is_no_better_than_what_was_asked() {
    let label = Label::of(Sources::WEB);
    let call = |arguments: serde_json::Value| {
        Calculator::new().call(&Invocation {
            arguments: &arguments,
            key: "1",
            space: "s",
            owner: "ann",
            label: &label,
            cancel: Cancel::default(),
        })
    };
    let result = call(json!({"expression": "1 + 1"}));
    assert_eq!((result.text().as_str(), result.failed), ("2", false));
    assert_eq!(result.label(), label);
    for arguments in
        [json!({}), json!({"expression": 1}), json!({"expression": "1", "x": 1}), json!([])]
    {
        let result = call(arguments);
        assert!(result.failed && result.text().starts_with("the arguments do not fit"));
    }
}
