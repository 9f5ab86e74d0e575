//! How long the call gate takes to decide.
//!
//! `cargo run --release -p yushan-kernel --example gate`
//!
//! Calls of a mail tool (destinations, a subject, a body, attachments), of a search and of a payment, by processes that
//! have read up to 16 records of others, with and without capabilities. Each decision, [`syscall::judge`] from the
//! call's JSON to the verdict, is timed alone; printed are quantiles of 200,000 of them, the clock's own cost included.

use std::time::Instant;

use serde_json::json;
use yushan_abi::{
    Call, Counts, Finish, Label, Message, Prompt, Readers, Request, Role, Sources, ToolResult,
    ToolSpec,
};
use yushan_kernel::gate::{Capability, Decision};
use yushan_kernel::{Entry, Life, Pid, Program, syscall};

const DECISIONS: usize = 200_000;

fn main() -> Result<(), serde_json::Error> {
    let tools = [
        tool("mail", "egress", &["to", "cc", "subject", "body", "attachment"], "destination")?,
        tool("search", "read", &["query", "limit"], "payload")?,
        tool("pay", "spend", &["target", "amount", "reference"], "target")?,
    ];
    let sources = [Sources::USER, Sources::WEB, Sources::OWN_DATA];
    let mut random = 1_u64;
    let mut next = move |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    let mut case = |at: usize| {
        let tool = &tools[at % tools.len()];
        let task = "Write to ann@example.org that I come at 12:00, and pay her the 5 euros.";
        let user = Label::of(Sources::USER).for_reader("me");
        let prompt = Prompt::Chat(vec![Message::new(Role::User, task, user)]);
        let mut program = Program::new(Request::new("any", prompt));
        let receivers = Readers::one(format!("reader {}", at % 8));
        if !at.is_multiple_of(7) {
            let capability = Capability { uses: Some(3), receivers, ..Capability::default() };
            program.capabilities.insert(tool.name.clone(), capability);
        }
        program.attended = at.is_multiple_of(2);
        let mut life = Life::new(Pid(1), program);
        for _ in 0..next(16) {
            let call = Call { id: "1".into(), name: "search".into(), arguments: "{}".into() };
            let (calls, finish, counts) = (vec![call], Finish::Calls, Counts::default());
            life.apply(Entry::Said { text: String::new(), calls, finish, counts });
            let label = Label::of(sources[next(3)]).for_reader(format!("reader {}", next(8)));
            let result = ToolResult::new("what somebody wrote", label);
            life.apply(Entry::Answered { result, received: false });
        }
        let to = ["ann@example.org", "eve@example.org"][at % 2];
        let arguments = json!({
            "to": [to], "target": to, "amount": 5, "query": "trains", "subject": "I come",
            "body": "I come at 12:00, and bring what https://example.org/list says.",
        });
        let keep = |name: &String| tool.schema["properties"].get(name).is_some();
        let arguments = arguments.as_object().into_iter().flatten();
        let arguments: serde_json::Map<_, _> =
            arguments.filter(|(name, _)| keep(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
        let arguments = serde_json::Value::Object(arguments).to_string();
        (tool, life, Call { id: "1".into(), name: tool.name.clone(), arguments })
    };
    measure(&(0..512).map(&mut case).collect::<Vec<_>>());
    Ok(())
}

/// Decides about these calls again and again, and prints how long that takes.
fn measure(cases: &[(&ToolSpec, Life, Call)]) {
    let mut allowed = 0;
    let mut times: Vec<u64> = (0..DECISIONS)
        .map(|at| {
            let (tool, life, call) = &cases[at % cases.len()];
            let begun = Instant::now();
            let judged = std::hint::black_box(syscall::judge(life, tool, call, 0));
            let time = begun.elapsed().as_nanos() as u64;
            allowed += usize::from(judged.is_ok_and(|judged| judged.decision == Decision::Allow));
            time
        })
        .collect();
    times.sort_unstable();
    let at = |share: f64| times[(share * times.len() as f64) as usize] as f64 / 1e3;
    println!("{DECISIONS} decisions, {allowed} allowed");
    println!("p50 {:.2} µs, p99 {:.2} µs, p99.9 {:.2} µs", at(0.5), at(0.99), at(0.999));
}

fn tool(
    name: &str,
    effect: &str,
    parameters: &[&str],
    first: &str,
) -> Result<ToolSpec, serde_json::Error> {
    let properties: serde_json::Map<String, serde_json::Value> =
        parameters.iter().map(|name| (name.to_string(), json!({"type": "string"}))).collect();
    serde_json::from_value(json!({
        "name": name,
        "effect": effect,
        "schema": {"type": "object", "properties": properties},
        "roles": {parameters[0]: first, parameters[parameters.len() - 1]: "payload"},
    }))
}
