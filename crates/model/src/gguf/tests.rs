//! What is written is read back; what is broken is named. Files are built byte by byte here, so
//! that the reader is not only tested against our own writer.

use yushan_tensor::DType;

use super::*;

/// Builds GGUF bytes without any check.
#[derive(Clone)]
struct Raw {
    version: u32,
    tensor_count: Option<u64>,
    metadata_count: Option<u64>,
    metadata: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl Raw {
    fn new() -> Raw {
        Raw {
            version: 3,
            tensor_count: None,
            metadata_count: None,
            metadata: Vec::new(),
            tensors: Vec::new(),
            data: vec![0; 256],
        }
    }

    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Raw {
        self.metadata.push([string(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self
    }

    /// `dims` innermost first, as the file has them.
    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Raw {
        let mut bytes = string(name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.metadata_count.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        self.metadata.iter().chain(&self.tensors).for_each(|bytes| out.extend(bytes));
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    /// Parsing fails, and the message names `field` and contains `detail`.
    fn refused(&self, field: &str, detail: &str) {
        let message = Gguf::parse(self.bytes()).expect_err(field).to_string();
        assert!(message.contains(field) && message.contains(detail), "{message}");
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An array value: element type, count, bytes.
fn array(kind: u32, len: u64, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), bytes].concat()
}

fn sample_header() -> Header {
    let mut header = Header::new();
    header.set("general.architecture", "llama");
    header.set("a.u8", 200_u8);
    header.set("a.i8", -3_i8);
    header.set("a.u16", 60_000_u16);
    header.set("a.i16", -30_000_i16);
    header.set("a.u32", 7_u32);
    header.set("a.i32", -7_i32);
    header.set("a.u64", u64::MAX);
    header.set("a.i64", i64::MIN);
    header.set("a.f32", 0.5_f32);
    header.set("a.f64", 0.25_f64);
    header.set("a.bool", true);
    header.set("a.tokens", &["a", "玉山", ""][..]);
    header.set("a.scores", &[1.0_f32, -2.0][..]);
    header.set("a.types", &[1_i32, 3][..]);
    header.set("a.nested", &[&[1_u8, 2][..], &[][..]][..]);
    header.tensor("first", DType::F32, &[2, 3]).unwrap();
    header.tensor("second", DType::Q8_0, &[2, 32]).unwrap();
    header.tensor("third", DType::F16, &[5]).unwrap();
    header
}

fn sample_data() -> [Vec<u8>; 3] {
    [(0..24).collect(), (0..68).collect(), (0..10).collect()]
}

fn write_sample(path: &std::path::Path) {
    let mut writer = sample_header().create(path).unwrap();
    let [first, second, third] = sample_data();
    assert_eq!(writer.next_tensor(), Some("first"));
    writer.tensor("first", &first).unwrap();
    writer.write(&second[..10]).unwrap();
    writer.write(&second[10..]).unwrap();
    writer.tensor("third", &third).unwrap();
    writer.finish().unwrap();
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.gguf");
    write_sample(&path);
    let gguf = Gguf::open(&path).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.len(), 16);
    assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.get("a.u8"), Some(Value::U8(200)));
    assert_eq!(metadata.get("a.i16"), Some(Value::I16(-30_000)));
    assert_eq!(metadata.integer("a.u16").unwrap(), Some(60_000));
    assert_eq!(metadata.get("a.u64").unwrap().as_u64(), Some(u64::MAX));
    assert_eq!(metadata.get("a.i64").unwrap().as_i64(), Some(i64::MIN));
    assert_eq!(metadata.float("a.f32").unwrap(), Some(0.5));
    assert_eq!(metadata.float("a.f64").unwrap(), Some(0.25));
    assert_eq!(metadata.flag("a.bool").unwrap(), Some(true));
    assert_eq!(metadata.get("absent"), None);
    let tokens: Vec<_> = metadata.array("a.tokens").unwrap().unwrap().strings().unwrap().collect();
    assert_eq!(tokens, ["a".as_bytes(), "玉山".as_bytes(), b""]);
    let scores: Vec<_> = metadata.array("a.scores").unwrap().unwrap().floats().unwrap().collect();
    assert_eq!(scores, [1.0, -2.0]);
    let types: Vec<_> = metadata.array("a.types").unwrap().unwrap().integers().unwrap().collect();
    assert_eq!(types, [1, 3]);
    let nested = metadata.array("a.nested").unwrap().unwrap();
    let lengths: Vec<_> = nested.iter().map(|value| value.as_array().unwrap().len()).collect();
    assert_eq!(lengths, [2, 0]);
    let negative = metadata.integer("a.i32").unwrap_err().to_string();
    assert!(negative.contains("a.i32"), "{negative}");

    let names: Vec<_> = gguf.tensors().iter().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["first", "second", "third"]);
    for (tensor, data) in gguf.tensors().iter().zip(sample_data()) {
        assert_eq!(tensor.data, data, "{}", tensor.name);
        assert_eq!(tensor.data.as_ptr() as usize % 32, 0);
    }
    assert_eq!(gguf.tensor("second").unwrap().shape, [2, 32]);
    assert!(gguf.tensor("fourth").is_none());
    gguf.tensors().release();
    assert_eq!(gguf.tensor("second").unwrap().data, sample_data()[1]);
}

#[test]
fn a_copy_made_from_what_was_read_is_byte_equal() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    write_sample(&path);
    let gguf = Gguf::open(&path).unwrap();
    let mut header = Header::new();
    header.copy(gguf.metadata(), |_| true);
    for tensor in gguf.tensors().iter() {
        header.tensor(tensor.name, tensor.dtype, tensor.shape).unwrap();
    }
    let mut writer = header.create(&copy).unwrap();
    for tensor in gguf.tensors().iter() {
        writer.tensor(tensor.name, tensor.data).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&copy).unwrap());
}

#[test]
fn an_unfinished_file_never_appears() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.gguf");
    let mut writer = sample_header().create(&path).unwrap();
    writer.tensor("first", &sample_data()[0]).unwrap();
    assert!(!path.exists());
    let missing = writer.finish().unwrap_err().to_string();
    assert!(missing.contains("second"), "{missing}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_writer_checks_order_and_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = sample_header().create(&folder.path().join("x.gguf")).unwrap();
    let [first, second, _] = sample_data();
    assert!(writer.tensor("second", &second).unwrap_err().to_string().contains("expected first"));
    assert!(writer.tensor("first", &first[1..]).unwrap_err().to_string().contains("24 announced"));
    assert!(writer.write(&second).unwrap_err().to_string().contains("24 are left"));
    writer.tensor("first", &first).unwrap();
    let mut header = sample_header();
    assert!(header.tensor("first", DType::F32, &[1]).is_err());
    assert!(header.tensor("odd", DType::Q8_0, &[2, 31]).is_err());
}

#[test]
fn set_replaces_and_remove_removes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let mut header = Header::new();
    header.set("a", 1_u32);
    header.set("b", 2_u32);
    header.set("a", "now text");
    assert!(header.remove("b") && !header.remove("b"));
    header.create(&path).unwrap().finish().unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.metadata().len(), 1);
    assert_eq!(gguf.metadata().string("a").unwrap(), Some("now text"));
    assert!(gguf.tensors().is_empty());
}

#[test]
fn version_2_is_read_and_others_are_named() {
    let mut raw = Raw::new().tensor("t", &[4], 0, 0);
    raw.version = 2;
    assert_eq!(Gguf::parse(raw.bytes()).unwrap().version(), 2);
    for (version, what) in [(1, "version 1"), (4, "version 4"), (3_u32.swap_bytes(), "big-endian")]
    {
        raw.version = version;
        raw.refused(what, "versions 2 and 3");
    }
}

#[test]
fn split_files_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let part = |number: u16, count: u16| {
        let path = folder.path().join(format!("m-{:05}-of-{count:05}.gguf", number + 1));
        let mut header = Header::new();
        header.set("split.no", number);
        header.set("split.count", count);
        header.set("split.tensors.count", i32::from(count));
        header.tensor(&format!("t{number}"), DType::F32, &[2]).unwrap();
        let mut writer = header.create(&path).unwrap();
        writer.write(&[number as u8; 8]).unwrap();
        writer.finish().unwrap();
        path
    };
    let paths: Vec<_> = (0..3).map(|number| part(number, 3)).collect();
    let gguf = Gguf::open(&paths[0]).unwrap();
    for number in 0..3 {
        assert_eq!(gguf.tensor(&format!("t{number}")).unwrap().data, [number as u8; 8]);
    }
    assert!(Gguf::open(&paths[1]).unwrap_err().to_string().contains("part 2"));
    std::fs::rename(&paths[1], &paths[2]).unwrap();
    assert!(Gguf::open(&paths[0]).unwrap_err().to_string().contains("00002-of-00003"));
    std::fs::copy(&paths[2], &paths[1]).unwrap();
    assert!(Gguf::open(&paths[0]).unwrap_err().to_string().contains("split.no"));
    let renamed = folder.path().join("other.gguf");
    std::fs::rename(&paths[0], &renamed).unwrap();
    assert!(Gguf::open(&renamed).unwrap_err().to_string().contains("split.count"));
}

#[test]
fn sizes_times_dimensions_that_overflow_are_refused() {
    let raw = Raw::new();
    raw.clone().tensor("t", &[u64::MAX, 2], 0, 0).refused("t.shape", "overflows");
    raw.clone().tensor("t", &[1 << 32, 1 << 32], 0, 0).refused("t.shape", "overflows");
    raw.clone().tensor("t", &[1 << 62], 0, 0).refused("t.shape", "overflows");
    raw.clone().tensor("t", &[1 << 40], 0, 0).refused("tensor data", "cut off");
    raw.clone().tensor("t", &[33], 8, 0).refused("t.shape", "multiple of 32");
    raw.clone().tensor("t", &[0], 0, 0).refused("t.shape", "dimension of 0");
    raw.clone().tensor("t", &[], 0, 0).refused("t.n_dims", "expected 1 to 4");
    raw.tensor("t", &[1; 5], 0, 0).refused("t.n_dims", "expected 1 to 4");
}

#[test]
fn ranges_past_the_end_are_refused() {
    let raw = Raw::new();
    raw.clone().tensor("t", &[64], 0, 32).refused("t.offset", "past the end");
    raw.clone().tensor("t", &[4], 0, u64::MAX - 31).refused("t.offset", "past the end");
    raw.clone().tensor("t", &[65], 0, 0).refused("tensor data", "cut off");
    raw.tensor("t", &[4], 0, 8).refused("t.offset", "multiple of the alignment");
}

#[test]
fn bad_alignment_is_refused() {
    for alignment in [0_u32, 1, 4, 24, 1 << 30] {
        let raw = Raw::new().entry("general.alignment", 4, &alignment.to_le_bytes());
        raw.tensor("t", &[4], 0, 0).refused("general.alignment", "power of two");
    }
    Raw::new().entry("general.alignment", 8, &string("32")).refused("general.alignment", "String");
    let raw = Raw::new().entry("general.alignment", 4, &64_u32.to_le_bytes());
    let gguf = Gguf::parse(raw.tensor("t", &[4], 0, 64).bytes()).unwrap();
    assert_eq!(gguf.alignment(), 64);
}

#[test]
fn duplicate_keys_are_refused() {
    let raw = Raw::new().entry("a", 0, &[1]).entry("b", 0, &[1]).entry("a", 0, &[1]);
    raw.refused("a: ", "stands twice");
}

#[test]
fn duplicate_tensor_names_are_refused() {
    let raw = Raw::new().tensor("t", &[4], 0, 0).tensor("u", &[4], 0, 32).tensor("t", &[4], 0, 64);
    raw.refused("t: ", "two tensors");
}

#[test]
fn overlapping_tensors_are_refused() {
    let raw = Raw::new().tensor("t", &[9], 0, 0).tensor("u", &[4], 0, 32);
    raw.refused("u.offset", "must not overlap");
    Raw::new().tensor("t", &[4], 0, 32).tensor("u", &[4], 0, 32).refused(".offset", "overlap");
}

#[test]
fn absurd_counts_are_refused() {
    let mut raw = Raw::new();
    raw.metadata_count = Some(u64::MAX);
    raw.refused("metadata_kv_count", "at most");
    raw.metadata_count = None;
    raw.tensor_count = Some(1 << 60);
    raw.refused("tensor_count", "at most");
    let raw = Raw::new();
    raw.clone().entry("a", 9, &array(4, u64::MAX, &[])).refused("a: ", "does not fit");
    raw.clone().entry("a", 9, &array(8, 1 << 40, &[])).refused("a: ", "does not fit");
    raw.clone().entry("a", 8, &u64::MAX.to_le_bytes()).refused("a: ", "ends inside");
    raw.clone().entry("a", 13, &[]).refused("a: ", "value type 13");
    raw.clone().entry("a", 9, &array(99, 1, &[0; 8])).refused("a: ", "element type 99");
    let long = "k".repeat(70_000);
    raw.clone().entry(&long, 0, &[1]).refused("metadata[0].key", "1 to 65535");
    raw.clone().entry("", 0, &[1]).refused("metadata[0].key", "0 bytes long");
    raw.tensor(&"n".repeat(2000), &[4], 0, 0).refused("tensor[0].name", "expected 1 to 1024");
}

#[test]
fn arrays_of_arrays_have_a_bounded_depth() {
    let nested = |depth: usize| {
        let mut value = array(0, 1, &[7]);
        for _ in 1..depth {
            value = array(9, 1, &value);
        }
        Raw::new().entry("a", 9, &value)
    };
    assert!(Gguf::parse(nested(4).bytes()).is_ok());
    nested(6).refused("a: ", "deep");
    nested(10_000).refused("a: ", "deep");
}

#[test]
fn unknown_tensor_types_are_named() {
    Raw::new().tensor("t", &[256], 39, 0).refused("ggml type 39", "Q4_K");
}

#[test]
fn text_that_is_not_utf8_is_refused_only_where_it_is_a_name() {
    let mut raw = Raw::new();
    raw.metadata.push([&1_u64.to_le_bytes()[..], &[0xff], &0_u32.to_le_bytes(), &[1]].concat());
    raw.refused("metadata[0].key", "UTF-8");
    let raw = Raw::new().entry("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]);
    let gguf = Gguf::parse(raw.bytes()).unwrap();
    assert_eq!(gguf.metadata().get("a").unwrap().as_bytes(), Some(&[0xff][..]));
    assert!(gguf.metadata().string("a").is_err());
}

#[test]
fn every_vocabulary_file_opens() {
    let Some(folder) = crate::shared_data("tokenizers/ggml-vocab") else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "gguf") {
            let gguf = Gguf::open(&path).unwrap();
            let tokens = gguf.metadata().array("tokenizer.ggml.tokens").unwrap().unwrap();
            assert!(tokens.strings().unwrap().count() > 30_000, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen} files");
}
