//! Conversions that go right, that must not, and that lose nothing on the way.

use super::*;

fn run(bytes: &[u8], from: &str, to: &str) -> Result<Converted, ConvertError> {
    let format = |name| Format::named(name).unwrap_or_else(|| panic!("no format {name}"));
    // A development build on a busy machine is slow.
    let limits = Limits { time: Duration::from_secs(600), ..Limits::default() };
    convert(bytes, format(from), format(to), &Options::default(), &limits)
}

fn good(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    match run(bytes, from, to) {
        Ok(converted) => converted.bytes,
        Err(error) => panic!("{from} to {to}: {error}"),
    }
}

fn text(bytes: &[u8], from: &str, to: &str) -> String {
    String::from_utf8(good(bytes, from, to)).expect("a text")
}

const SALES: &str = "city,units,price,when,open\n\
                     台北,12,3.50,2026-11-27,true\n\
                     \"Zürich, West\",-7,1e3,2026-01-02,false\n\
                     ,,,,\n";

const SALES_JSON: &str = "[\n\
    {\"city\":\"台北\",\"units\":12,\"price\":3.50,\"when\":\"2026-11-27\",\"open\":true},\n\
    {\"city\":\"Zürich, West\",\"units\":-7,\"price\":1e3,\"when\":\"2026-01-02\",\"open\":false},\n\
    {\"city\":null,\"units\":null,\"price\":null,\"when\":null,\"open\":null}\n]\n";

#[test]
fn tables_become_each_other() {
    assert_eq!(text(SALES.as_bytes(), "csv", "json"), SALES_JSON);
    let json = SALES_JSON.as_bytes();
    for through in ["csv", "tsv", "json", "jsonl"] {
        let there = good(json, "json", through);
        assert_eq!(text(&there, through, "json"), SALES_JSON, "through {through}");
    }
    // These hold numbers, not their digits; a row of nothing at the end of a sheet is no row.
    let numbers = SALES_JSON.replace("3.50", "3.5").replace("1e3", "1000");
    let parquet = good(json, "json", "parquet");
    assert_eq!(text(&parquet, "parquet", "json"), numbers);
    let (sheet, rest) = numbers.split_at(numbers.find(",\n{\"city\":null").expect("the last row"));
    assert!(rest.ends_with("]\n"));
    let xlsx = good(SALES.as_bytes(), "csv", "xlsx");
    assert_eq!(text(&xlsx, "xlsx", "json"), format!("{sheet}\n]\n"));
    assert_eq!(xlsx, good(SALES.as_bytes(), "csv", "xlsx"), "the same bytes each time");
}

#[test]
fn numbers_keep_their_digits() {
    let csv = "id,code,exact\n9007199254740993,007,0.1234567890123456789\n\
               123456789012345678901234567890,90210,2\n";
    let json = "[\n\
        {\"id\":9007199254740993,\"code\":\"007\",\"exact\":0.1234567890123456789},\n\
        {\"id\":123456789012345678901234567890,\"code\":\"90210\",\"exact\":2}\n]\n";
    assert_eq!(text(csv.as_bytes(), "csv", "json"), json);
    for through in ["xlsx", "parquet"] {
        let there = run(json.as_bytes(), "json", through).expect("written");
        assert!(there.notes.iter().any(|note| note.contains("texts")), "{:?}", there.notes);
        let back = text(&there.bytes, through, "csv");
        assert_eq!(back, csv, "through {through}");
    }
}

#[test]
fn documents_become_each_other() {
    let markdown = "# Title\n\nSome **bold** [link](https://example.org).\n\n| a | b |\n|---|---|\n| 1 | x\\|y |\n";
    let html = text(markdown.as_bytes(), "md", "html");
    assert!(html.contains("<h1>Title</h1>") && html.contains("<strong>bold</strong>"), "{html}");
    let back = text(html.as_bytes(), "html", "md");
    assert!(back.contains("# Title") && back.contains("**bold**"), "{back}");
    assert_eq!(text(html.as_bytes(), "html", "csv"), "a,b\n1,x|y\n");
    let plain = text(markdown.as_bytes(), "md", "txt");
    assert_eq!(plain, "Title\n\nSome bold link.\n\na\tb\n1\tx|y\n");
    assert!(text(SALES.as_bytes(), "csv", "md").starts_with("| city | units |"));
    assert!(text(SALES.as_bytes(), "csv", "html").contains("<td>台北</td>"));
    let hostile = "<script>alert(1)</script>a <img src=x onerror=alert(1)>";
    for to in ["html", "md", "txt"] {
        let made = text(hostile.as_bytes(), if to == "html" { "md" } else { "html" }, to);
        assert!(!made.contains("alert"), "{made}");
    }
    assert_eq!(
        text(b"a <b> & *c*", "txt", "html").lines().last(),
        Some("<pre>a&#32;&lt;b&gt;&#32;&amp;&#32;*c*</pre>")
    );
    assert_eq!(text(b"a *c*", "txt", "md"), "a \\*c\\*");
}

#[test]
fn pictures_become_each_other() {
    let mut picture = image::RgbaImage::new(40, 30);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        *pixel = image::Rgba([x as u8 * 6, y as u8 * 8, 99, if x < 20 { 255 } else { 0 }]);
    }
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).expect("a picture");
    let png = png.into_inner();
    for to in ["png", "jpg", "webp", "gif", "bmp", "tiff", "ico", "ppm", "qoi"] {
        let there = good(&png, "png", to);
        let back = image::load_from_memory(&good(&there, to, "png")).expect("a picture");
        assert_eq!((back.width(), back.height()), (40, 30), "{to}");
        let pixel = image::GenericImageView::get_pixel(&back, 10, 10);
        for (channel, wanted) in [60u8, 80, 99].into_iter().enumerate() {
            assert!(pixel[channel].abs_diff(wanted) < 40, "{to}: {pixel:?}");
        }
    }
    let sixteen = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(9, 9, image::Rgb([9, 9, 9]));
    let mut deep = std::io::Cursor::new(Vec::new());
    sixteen.write_to(&mut deep, image::ImageFormat::Png).expect("a picture");
    for to in ["png", "jpg", "webp", "gif", "bmp", "tiff", "ico", "ppm", "qoi"] {
        good(deep.get_ref(), "png", to);
    }
}

/// A PDF with one page that says this.
fn pdf_of(text: &str) -> lopdf::Document {
    use lopdf::{Document, Object, Stream, dictionary};
    let mut document = Document::with_version("1.5");
    let pages = document.new_object_id();
    let font = document.add_object(dictionary! {
        "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Helvetica",
    });
    let resources = document.add_object(dictionary! { "Font" => dictionary! { "F1" => font } });
    let content = format!("BT /F1 12 Tf 100 600 Td ({text}) Tj ET");
    let content = document.add_object(Stream::new(dictionary! {}, content.into_bytes()));
    let page = document.add_object(dictionary! {
        "Type" => "Page", "Parent" => pages, "Contents" => content, "Resources" => resources,
        "MediaBox" => vec![0.into(), 0.into(), 595.into(), 842.into()],
    });
    document.objects.insert(
        pages,
        Object::Dictionary(dictionary! {
            "Type" => "Pages", "Kids" => vec![page.into()], "Count" => 1,
        }),
    );
    let catalog = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => pages });
    document.trailer.set("Root", catalog);
    let id = Object::string_literal("0123456789abcdef");
    document.trailer.set("ID", Object::Array(vec![id.clone(), id]));
    document
}

fn saved(mut document: lopdf::Document) -> Vec<u8> {
    let mut bytes = Vec::new();
    document.save_to(&mut bytes).expect("saved");
    bytes
}

#[test]
fn the_text_of_a_pdf_is_read() {
    let bytes = saved(pdf_of("Hello from a page"));
    assert_eq!(text(&bytes, "pdf", "txt").trim(), "Hello from a page");
    let scan = run(&saved(pdf_of("")), "pdf", "txt").expect_err("nothing to read");
    assert!(scan.to_string().contains("scan"), "{scan}");
}

#[test]
fn an_encrypted_pdf_is_named_so() {
    use lopdf::{EncryptionState, EncryptionVersion, Permissions};
    let mut document = pdf_of("secret");
    let version = EncryptionVersion::V2 {
        document: &document,
        owner_password: "owner",
        user_password: "user",
        key_length: 128,
        permissions: Permissions::all(),
    };
    let state = EncryptionState::try_from(version).expect("a state");
    document.encrypt(&state).expect("encrypted");
    assert_eq!(run(&saved(document), "pdf", "txt"), Err(ConvertError::Encrypted));
}

#[test]
fn other_encodings_are_found_or_said() {
    let (big5, ..) =
        encoding_rs::BIG5.encode("城市,人口\n台北市是臺灣的首都,2500000\n高雄市位於南部,2700000\n");
    let converted = run(&big5, "csv", "json").expect("read");
    assert!(String::from_utf8_lossy(&converted.bytes).contains("高雄市"), "{converted:?}");
    assert!(converted.notes[0].contains("Big5"), "{:?}", converted.notes);
    let utf16: Vec<u8> = "a,b\n1,é\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xff\xfe".as_slice(), &utf16].concat();
    assert_eq!(text(&marked, "csv", "csv"), "a,b\n1,é\n");
    let said = Options { encoding: Some("utf-16le".into()), ..Options::default() };
    let limits = Limits::default();
    let read = convert(&utf16, Format::Csv, Format::Csv, &said, &limits).expect("read");
    assert_eq!(read.bytes, "a,b\n1,é\n".as_bytes());
}

#[test]
fn what_was_changed_is_noted() {
    for (bytes, from, to, note) in [
        ("a;b\n1;2\n", "csv", "json", "separated by ';'"),
        ("a\n=1+1\n-x\n", "csv", "csv", "formulas"),
        ("a,a,\n1,2,3\n", "csv", "json", "a_2, column_3"),
        (r#"[{"a":[1,2]}]"#, "json", "csv", "texts of JSON"),
        ("|a|\n|-|\n|1|\n\nx\n\n|b|\n|-|\n|2|\n", "md", "csv", "first of 2 tables"),
    ] {
        let notes = run(bytes.as_bytes(), from, to).expect("converted").notes;
        assert!(notes.iter().any(|one| one.contains(note)), "{bytes:?}: {notes:?}");
    }
}

#[test]
fn bad_input_ends_in_an_error_that_says_what_to_do() {
    let wide = vec![b','; 1_000_000];
    let mut bomb = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    bomb.start_file("xl/worksheets/sheet1.xml", zip::write::SimpleFileOptions::default())
        .expect("begun");
    std::io::Write::write_all(&mut bomb, &vec![b' '; 64 << 20]).expect("written");
    let bomb = bomb.finish().expect("finished").into_inner();
    // A header that claims 60,000 by 60,000 pixels.
    let mut huge = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(8, 8).write_to(&mut huge, image::ImageFormat::Bmp).expect("a picture");
    let mut huge = huge.into_inner();
    huge[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    huge[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    let many = "<p>x".repeat(200_001);
    let nested = format!("[{}", "[".repeat(200_000));
    let ole = [b"\xd0\xcf\x11\xe0".as_slice(), b"E\0n\0c\0r\0y\0p\0t\0e\0d\0P\0a\0c\0k\0a\0g\0e\0"]
        .concat();
    let cases: Vec<(&[u8], &str, &str, &str)> = vec![
        (b"", "csv", "json", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "csv", "json", "a PNG picture"),
        (b"\x7fELF\x02\x01\x01\0\0", "json", "csv", "a program"),
        (&wide, "csv", "json", "columns is 1000001"),
        (b"a,b\n1,2\n1,2,3\n", "csv", "json", "line 3 has 3 values"),
        (b"[1,2]", "json", "csv", "must be an object"),
        (b"{\"a\":1}\n{\"a\":2}", "json", "csv", "JSON"),
        (b"{\"a\":1}\n{\"a\":", "jsonl", "csv", "line 2"),
        (b"[]", "json", "csv", "no columns"),
        (nested.as_bytes(), "json", "csv", "JSON"),
        (b"PAR1 nonsense PAR1", "parquet", "csv", "Parquet"),
        (b"PK\x03\x04 nonsense", "xlsx", "csv", "XLSX"),
        (&bomb, "xlsx", "csv", "unpacked"),
        (&ole, "xlsx", "csv", "encrypted"),
        (&huge, "bmp", "png", "3600000000"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0", "png", "jpg", "damaged"),
        (b"GIF89a", "png", "jpg", "really gif"),
        (b"%PDF-1.5 nonsense", "pdf", "txt", "PDF"),
        (b"no pdf", "pdf", "txt", "not a PDF"),
        (many.as_bytes(), "html", "md", "the number of elements is 200001, at most 200000"),
        (b"no table", "md", "csv", "no table"),
        (b"a", "png", "csv", "it can become: png, jpg"),
        (b"a", "csv", "pdf", "it can become: csv"),
    ];
    for (bytes, from, to, expected) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
        match run(bytes, from, to) {
            Ok(made) => panic!("{from} {shown:?} became {} bytes", made.bytes.len()),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{from} {shown:?}: {error}");
            }
        }
    }
}

#[test]
fn a_workbook_cannot_ask_for_more_memory_than_it_has_bytes() {
    let honest = good(b"a\nx\n", "csv", "xlsx");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&honest)).expect("an archive");
    let mut lying = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for place in 0..archive.len() {
        let mut entry = archive.by_index(place).expect("an entry");
        let name = entry.name().expect("a name").into_owned();
        let mut content = String::new();
        std::io::Read::read_to_string(&mut entry, &mut content).expect("XML");
        let content = content.replace("uniqueCount=\"2\"", "uniqueCount=\"99999999999\"");
        lying.start_file(name, zip::write::SimpleFileOptions::default()).expect("begun");
        std::io::Write::write_all(&mut lying, content.as_bytes()).expect("written");
    }
    let lying = lying.finish().expect("finished").into_inner();
    let error = run(&lying, "xlsx", "csv").expect_err("a lie").to_string();
    assert!(error.contains("99999999999 shared texts"), "{error}");
}

/// Whatever is cut off or flipped: an error or a table, never a panic of ours, in bounded memory.
#[test]
fn damaged_files_end_in_an_error() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    let json = SALES_JSON.as_bytes();
    let files = [
        ("csv", SALES.as_bytes().to_vec()),
        ("json", json.to_vec()),
        ("parquet", good(json, "json", "parquet")),
        ("xlsx", good(json, "json", "xlsx")),
        ("pdf", saved(pdf_of("Hello"))),
        ("html", text(SALES.as_bytes(), "csv", "html").into_bytes()),
    ];
    for (from, bytes) in files {
        let to = if from == "pdf" { "txt" } else { "csv" };
        for length in (0..bytes.len()).step_by(bytes.len() / 60 + 1) {
            let _ = run(&bytes[..length], from, to);
        }
        for _ in 0..60 {
            let mut damaged = bytes.clone();
            for _ in 0..=random() % 4 {
                let place = random() % damaged.len();
                damaged[place] = random() as u8;
            }
            let _ = run(&damaged, from, to);
        }
    }
}

/// Counting tags finds no depth in these; a parser that follows the standard does, and whoever walks its tree by recursion ends
/// with the stack.
#[test]
fn pages_however_deep_are_read_on_a_bounded_stack() {
    for (page, count, is_deep) in [
        ("<x a=\"</y\">", 1_000_000, true),
        ("<div></b>", 500_000, true),
        ("<table><tr><td>", 50_000, true),
        ("<b><p>", 50_000, false),
        ("<math><mi><p>", 50_000, false),
        ("<table><b>", 50_000, true),
    ] {
        let page = format!("<p>before</p>{}the text", page.repeat(count));
        let made = run(page.as_bytes(), "html", "md").expect("Markdown");
        let text = String::from_utf8(made.bytes).expect("text");
        assert!(text.starts_with("before") && text.contains("the text"), "{:.100}", text);
        let is_said = made.notes.iter().any(|note| note.contains("120 deep"));
        assert_eq!(is_said, is_deep, "{:?}", made.notes);
    }
    let quoted = format!("{}the text", "> ".repeat(500_000));
    let made = run(quoted.as_bytes(), "md", "html").expect("HTML");
    assert!(made.notes.iter().any(|note| note.contains("120 deep")), "{:?}", made.notes);
}

#[test]
fn pages_keep_what_is_read_of_them() {
    let page = "<p>1 &lt; 2 &amp;&amp; <a href='/x?a=1&amp;b=2' title=t>a link</a> &copy; \u{e123}</p>\
        <pre><code class=language-rust>if a &lt; b &amp;&amp; c {\n}</code></pre><ol start=3><li>three<li>four</ol>\
        <p hidden>unseen</p>";
    let made = text(page.as_bytes(), "html", "md");
    for part in [
        "1 < 2 && [a link](/x?a=1&b=2 \"t\") \u{a9} \u{e123}",
        "```rust\nif a < b && c {\n}\n```",
        "3.  three\n4.  four",
    ] {
        assert!(made.contains(part), "{part}: {made}");
    }
    assert!(!made.contains("unseen"), "{made}");
}

#[test]
fn columns_without_rows_are_said_to_be_lost() {
    let made = run(b"a,b\n", "csv", "json").expect("JSON");
    assert!(made.notes.iter().any(|note| note.contains("no rows")), "{:?}", made.notes);
    assert!(run(b"a,b\n", "csv", "xlsx").expect("a workbook").notes.is_empty());
}

#[test]
fn what_takes_too_long_or_is_cancelled_is_given_up() {
    let rows: String = (0..100_000).map(|row| format!("{row},{row}\n")).collect();
    let (csv, xlsx, options) = (Format::Csv, Format::Xlsx, Options::default());
    let limits = Limits { time: Duration::ZERO, ..Limits::default() };
    let late = convert(rows.as_bytes(), csv, xlsx, &options, &limits);
    assert_eq!(late, Err(ConvertError::TooSlow(Duration::ZERO)));
    let limits = Limits { time: Duration::from_secs(600), ..Limits::default() };
    let gone = convert_unless(&|| true, rows.as_bytes(), csv, xlsx, &options, &limits);
    assert_eq!(gone, Err(ConvertError::Cancelled));
}

/// Calls the tool in a space of its own.
fn called(
    disk: &std::sync::Arc<dyn yushan_abi::Disk>,
    arguments: serde_json::Value,
) -> yushan_abi::ToolResult {
    called_until(disk, arguments, yushan_abi::Cancel::default())
}

fn called_until(
    disk: &std::sync::Arc<dyn yushan_abi::Disk>,
    arguments: serde_json::Value,
    cancel: yushan_abi::Cancel,
) -> yushan_abi::ToolResult {
    use yushan_abi::{Invocation, Label, Sources, Tool};
    let tool = driver::Convert::new(std::sync::Arc::clone(disk), Limits::default());
    let (key, space, owner) = ("key", "space", "ann");
    let label = Label::of(Sources::USER);
    tool.call(&Invocation { arguments: &arguments, key, space, owner, label: &label, cancel })
}

#[test]
fn the_tool_converts_in_a_space_and_keeps_the_label() {
    use serde_json::json;
    use yushan_abi::{Label, Sources};
    let disk: std::sync::Arc<dyn yushan_abi::Disk> =
        std::sync::Arc::new(crate::memory::MemoryDisk::default());
    let space = crate::space::Space::open(std::sync::Arc::clone(&disk), "ann", "space");
    let space = space.expect("a space");
    space.write("sales.csv", SALES.as_bytes(), &Label::of(Sources::WEB)).expect("written");
    for (path, to_path) in [("sales.csv", "out/sales.xlsx"), ("out/sales.xlsx", "sales.json")] {
        let result = called(&disk, json!({"path": path, "to_path": to_path}));
        assert!(!result.failed && result.files[0].path == to_path, "{}", result.text());
    }
    let json = space.read("sales.json").expect("there");
    assert!(!json.label.is_trusted());
    let rows: serde_json::Value = serde_json::from_slice(&json.bytes).expect("JSON");
    assert_eq!(rows[1]["city"], "Zürich, West");
    for (arguments, expected) in [
        (json!({"path": "none.csv", "to_path": "x.json"}), "there is no file"),
        (json!({"path": "sales.csv", "to_path": "x"}), "names no format"),
        (json!({"path": "sales.csv", "to_path": "../x.json"}), "../x.json"),
        (json!({"path": "sales.csv", "from": "xlsx", "to_path": "x.json"}), "not readable as XLSX"),
        (json!({"path": "sales.csv", "to_path": "x.json", "sheets": 1}), "unknown field `sheets`"),
    ] {
        let result = called(&disk, arguments);
        assert!(result.failed && result.text().contains(expected), "{}", result.text());
    }
    let order = json!({"path": "sales.csv", "to_path": "late.json"});
    let cancel = yushan_abi::Cancel::default();
    cancel.cancel();
    let result = called_until(&disk, order, cancel);
    assert!(result.failed && space.read("late.json").is_err(), "{}", result.text());
}
