//! Drawings, what is refused, and pictures from an endpoint that is not one.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use base64::Engine;
use serde_json::{Value, json};
use yushan_abi::{
    Absent, Cancel, Disk, Effect, Invocation, Label, Senses, Sources, Tool, ToolResult,
};

use super::driver::Draw;
use super::endpoint::{Endpoint, EndpointConfig};
use super::image::Image;
use super::*;
use crate::memory::MemoryDisk;
use crate::space::Space;

fn svg(items: Value) -> String {
    match draw(&json!({"width": 400, "height": 300, "items": items})) {
        Ok(svg) => svg,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn shapes_become_elements() {
    for (item, expected) in [
        (
            json!({"kind": "rect", "x": 1, "y": 2, "width": 3, "height": 4.125, "fill": "Red"}),
            "<rect x=\"1\" y=\"2\" width=\"3\" height=\"4.12\" rx=\"0\" fill=\"red\"/>",
        ),
        (
            json!({"kind": "circle", "cx": 5, "cy": 6, "r": 7, "stroke": "#00ff00", "dash": [2, 1]}),
            "<circle cx=\"5\" cy=\"6\" r=\"7\" stroke=\"#00ff00\" stroke-dasharray=\"2 1\"/>",
        ),
        (
            json!({"kind": "line", "x1": 0, "y1": 0, "x2": 9, "y2": 9}),
            "<line x1=\"0\" y1=\"0\" x2=\"9\" y2=\"9\" fill=\"none\" stroke=\"black\"/>",
        ),
        (
            json!({"kind": "polygon", "points": [[0, 0], [1, 0], [1, 1]]}),
            "<polygon points=\"0,0 1,0 1,1\"/>",
        ),
        (json!({"kind": "path", "d": "M0 0 C1 1 2 2 3 3 Z"}), "<path d=\"M0 0 C1 1 2 2 3 3 Z\"/>"),
        (
            json!({"kind": "text", "x": 1, "y": 1, "text": "<b> & \"山\"\u{1}"}),
            ">&lt;b&gt; &amp; &quot;山&quot;</text>",
        ),
        (
            json!({"kind": "group", "translate": [5, 5], "rotate": 45, "items": [{"kind": "circle", "cx": 0, "cy": 0, "r": 1}]}),
            "<g transform=\"translate(5 5) rotate(45)\" opacity=\"1\">\n<circle",
        ),
    ] {
        let drawn = svg(json!([item]));
        assert!(drawn.contains(expected), "{drawn}");
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
    }
}

fn chart(form: &str, more: Value) -> Value {
    let mut chart = json!({
        "kind": "chart", "type": form, "title": "Sales", "x_label": "year", "y_label": "units",
        "series": [{"name": "tea", "values": [12.5, -3, 40]}, {"name": "rice", "values": [1, 2, 3]}],
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        chart[name] = value.clone();
    }
    chart
}

#[test]
fn charts_have_axes_labels_and_all_their_values() {
    let bars = svg(json!([chart("bar", json!({"labels": ["2024", "2025", "2026"]}))]));
    for text in ["Sales", "year", "units", "tea", "rice", "2024", "2026", ">-10<", ">0<", ">40<"] {
        assert!(bars.contains(text), "{text}: {bars}");
    }
    // The background, six bars and two marks of the legend.
    assert_eq!(bars.matches("<rect").count(), 9);
    let lines = svg(json!([chart("line", json!({}))]));
    assert_eq!((lines.matches("<polyline").count(), lines.matches("<circle").count()), (2, 6));
    let points =
        svg(json!([chart("scatter", json!({"series": [{"x": [1, 2], "values": [3, 4]}]}))]));
    assert_eq!(points.matches("<circle").count(), 2);
    let pie = json!({"labels": ["a", "b", "c"], "series": [{"values": [1, 2, 1]}]});
    let pie = svg(json!([chart("pie", pie)]));
    assert_eq!(pie.matches("<path").count(), 3);
    assert!(pie.contains(">25%<") && pie.contains(">50%<"), "{pie}");
    assert_eq!(lines, svg(json!([chart("line", json!({}))])), "the same bytes each time");
}

#[test]
fn charts_of_strange_values_are_drawn_with_numbers_alone() {
    for values in [
        json!([0, 0, 0]),
        json!([5]),
        json!([1e-300, 2e-300]),
        json!([1e300, -1e300]),
        json!([1e15, 1e15]),
        json!([-1, -2]),
    ] {
        for form in ["bar", "line", "scatter"] {
            let x: Vec<usize> = (0..values.as_array().map_or(0, Vec::len)).collect();
            let more = json!({"series": [{"values": values, "x": x}]});
            let drawn = svg(json!([chart(form, more)]));
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{form} {values}: {drawn}");
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let mut deep = json!([]);
    for _ in 0..20 {
        deep = json!([{"kind": "group", "items": deep}]);
    }
    let many: Vec<Value> = vec![json!({"kind": "circle", "cx": 0, "cy": 0, "r": 1}); 10_001];
    for (items, expected) in [
        (json!([{"kind": "star"}]), "items[0]: `kind` must be one of rect, circle"),
        (
            json!([{"kind": "circle", "cx": 0, "cy": 0, "radius": 1}]),
            "items[0]: a circle has no field \"radius\"; it has: cx",
        ),
        (json!([{"kind": "circle", "cx": 0, "cy": 0}]), "items[0]: missing field `r`"),
        (json!([{"kind": "circle", "cx": 0, "cy": 0, "r": -1}]), "r must not be negative"),
        (
            json!([{"kind": "circle", "cx": 1e9, "cy": 0, "r": 1}]),
            "cx is 1000000000 and must be between",
        ),
        (
            json!([{"kind": "rect", "x": 0, "y": 0, "width": 1, "height": 1, "fill": "url(#x)"}]),
            "is no colour",
        ),
        (
            json!([{"kind": "rect", "x": 0, "y": 0, "width": 1, "height": 1, "fill": "red\" onload=\"x"}]),
            "is no colour",
        ),
        (json!([{"kind": "path", "d": "M0 0\"/><script/>"}]), "`d` begins with M"),
        (json!([{"kind": "text", "x": 0, "y": 0, "text": "x".repeat(3000)}]), "at most 2000 bytes"),
        (json!([{"kind": "group", "items": [7]}]), "items[0].items[0]: an item is an object"),
        (deep, "at most 16 deep"),
        (json!(many), "at most 10000 items"),
        (json!([chart("pie", json!({}))]), "a pie has one series"),
        (
            json!([chart("bar", json!({"labels": ["a"]}))]),
            "series[0]: has 3 values and there are 1 labels",
        ),
        (json!([chart("scatter", json!({}))]), "needs `x`"),
        (json!([chart("bar", json!({"series": []}))]), "needs `series`"),
        (json!([chart("bar", json!({"width": 3}))]), "width is 3"),
        (json!([{"kind": "polyline", "points": vec![[0, 0]; 100_001]}]), "at most 100000 points"),
    ] {
        let error = draw(&json!({"items": items})).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (scene, expected) in [
        (json!({"items": [], "width": 1e9}), "width: must be between"),
        (json!({"items": [], "background": "javascript:1"}), "is no colour"),
        (json!({"shapes": []}), "unknown field `shapes`"),
        (json!([]), "scene"),
    ] {
        let error = draw(&scene).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn call(tool: &dyn Tool, arguments: &Value, label: &Label) -> ToolResult {
    let (key, space, owner, cancel) = ("key1", "space", "ann", Cancel::default());
    tool.call(&Invocation { arguments, key, space, owner, label, cancel })
}

#[test]
fn a_drawing_lies_in_the_space_with_the_label_of_who_asked() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let tool = Draw::new(Arc::clone(&disk));
    let label = Label::of(Sources::WEB);
    let scene = json!({"items": [chart("line", json!({}))]});
    let result = call(&tool, &json!({"path": "plots/tea.svg", "scene": scene}), &label);
    assert!(!result.failed, "{}", result.text());
    assert_eq!(result.files[0].media_type, "image/svg+xml");
    let space = Space::open(disk, "ann", "space").expect("a space");
    assert_eq!(space.read("plots/tea.svg").expect("there").label, label);
    for (arguments, expected) in [
        (json!({"path": "x.png", "scene": scene}), "must end with .svg"),
        (json!({"path": "../x.svg", "scene": scene}), "../x.svg"),
        (json!({"path": "x.svg"}), "missing field `scene`"),
    ] {
        let result = call(&tool, &arguments, &label);
        assert!(result.failed && result.text().contains(expected), "{}", result.text());
    }
}

/// Answers one request with these bytes and gives what was asked.
fn endpoint(status: &str, body: String) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    let answer = format!("{head}location: http://127.0.0.1:1/\r\nconnection: close\r\n\r\n{body}");
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a visitor");
        let mut asked = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).expect("a request");
            asked.extend_from_slice(&buffer[..count]);
            // The body is one object.
            if count == 0 || asked.ends_with(b"}") {
                break;
            }
        }
        // A client that has read enough may be gone.
        let _ = stream.write_all(answer.as_bytes());
        String::from_utf8_lossy(&asked).into_owned()
    });
    (address, serving)
}

fn asked_of(base_url: String) -> Result<ToolResult, String> {
    let config = EndpointConfig {
        base_url,
        model: "painter".into(),
        key: Some("secret".into()),
        timeout_seconds: 20,
        sends_format: true,
    };
    let senses = Endpoint::new(config).map_err(|error| error.to_string())?;
    let origin = senses.host().to_string();
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let tool = Image::new(disk, Arc::new(senses), Effect::Egress, origin);
    let arguments = json!({"prompt": "a mountain", "path": "art/peak.jpg", "size": "256x256"});
    Ok(call(&tool, &arguments, &Label::of(Sources::USER)))
}

#[test]
fn a_picture_comes_from_an_endpoint() {
    let mut png = std::io::Cursor::new(Vec::new());
    ::image::GrayImage::new(8, 8).write_to(&mut png, ::image::ImageFormat::Png).expect("a picture");
    let data = base64::prelude::BASE64_STANDARD.encode(png.get_ref());
    let body = json!({"created": 1, "data": [{"b64_json": data}]}).to_string();
    let (address, serving) = endpoint("200 OK", body);
    let result = asked_of(address).expect("asked");
    assert!(!result.failed, "{}", result.text());
    assert_eq!(
        (&*result.files[0].path, &*result.files[0].media_type),
        ("art/peak.png", "image/png")
    );
    let asked = serving.join().expect("served").to_ascii_lowercase();
    for part in [
        "post /v1/images/generations",
        "bearer secret",
        "\"size\":\"256x256\"",
        "\"b64_json\"",
        "a mountain",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
}

#[test]
fn an_endpoint_that_misbehaves_is_an_error() {
    let exe = base64::prelude::BASE64_STANDARD.encode(b"\x7fELF, not a picture");
    for (status, body, expected) in [
        (
            "400 Bad Request",
            json!({"error": {"message": "no such style"}}).to_string(),
            "refused: no such style",
        ),
        ("500 Oops", "<html>".into(), "status 500"),
        ("302 Found", String::new(), "status 302"),
        ("200 OK", "{}".into(), "does not read"),
        (
            "200 OK",
            json!({"data": [{"url": "http://169.254.169.254/"}]}).to_string(),
            "no picture in its answer",
        ),
        ("200 OK", json!({"data": [{"b64_json": "%%%"}]}).to_string(), "not base64"),
        ("200 OK", json!({"data": [{"b64_json": exe}]}).to_string(), "no PNG, JPEG or WebP"),
    ] {
        let (address, serving) = endpoint(status, body);
        let result = asked_of(address).expect("asked");
        assert!(result.failed && result.text().contains(expected), "{expected}: {}", result.text());
        serving.join().expect("served");
    }
    assert!(asked_of("ftp://x".into()).is_err());
    let nobody = asked_of("http://127.0.0.1:1/v1".into()).expect("asked");
    assert!(nobody.text().contains("does not answer"), "{}", nobody.text());
}

#[test]
fn without_senses_the_tool_says_what_to_do() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let senses: Arc<dyn Senses> = Arc::new(Absent);
    let tool = Image::new(disk, senses, Effect::Write, "nobody");
    let result = call(&tool, &json!({"prompt": "x", "path": "y"}), &Label::default());
    assert!(result.failed && result.text().contains("`draw`"), "{}", result.text());
}
