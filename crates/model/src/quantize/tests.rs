//! Small files made here, quantized, read again.

use super::*;

/// Deterministic numbers between -1 and 1.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A model of two layers, 512 columns, in the order of a converter.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![("token_embd.weight".to_string(), vec![40, 512])];
    for layer in 0..2 {
        for (name, shape) in [
            ("attn_norm.weight", vec![512]),
            ("attn_q.weight", vec![512, 512]),
            ("attn_v.weight", vec![64, 512]),
            ("ffn_down.weight", vec![512, 96]),
        ] {
            shapes.push((format!("blk.{layer}.{name}"), shape));
        }
    }
    shapes.push(("output.weight".to_string(), vec![40, 512]));
    shapes
}

/// Writes the model with matrices as `dtype`, numbers of one tensor changed by `spoil`.
fn write_model(path: &Path, dtype: DType, spoil: impl Fn(&str, &mut [f32])) {
    let stored = |shape: &[usize]| if shape.len() == 1 { DType::F32 } else { dtype };
    let mut header = Header::new();
    header.set("general.file_type", 1u32);
    header.set("general.architecture", "llama");
    header.set("llama.block_count", 2u32);
    for (name, shape) in shapes() {
        header.tensor(&name, stored(&shape), &shape).unwrap();
    }
    let mut writer = header.create(path).unwrap();
    for (seed, (name, shape)) in shapes().into_iter().enumerate() {
        let count = shape.iter().product();
        let mut values = numbers(count, seed as u32);
        spoil(&name, &mut values);
        let mut row = vec![0; stored(&shape).bytes(count).unwrap()];
        quantize_row(stored(&shape), &values, &mut row);
        writer.tensor(&name, &row).unwrap();
    }
    writer.finish().unwrap();
}

fn values_of(view: &TensorView<'_>) -> Vec<f32> {
    let mut values = vec![0.0; view.shape.iter().product()];
    dequantize_row(view.dtype, view.data, &mut values);
    values
}

#[test]
fn every_target_holds_the_rows_that_its_type_makes() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    write_model(&from, DType::F32, |_, _| {});
    let input = Gguf::open(&from).unwrap();
    for target in Quantization::all() {
        let mut last = (0, 0);
        let mut progress = |done, total, _: &str| {
            assert!(done > last.0 && done <= total, "{done} of {total} after {}", last.0);
            last = (done, total);
            ControlFlow::Continue(())
        };
        let report = quantize(&input, &to, target, &mut progress).unwrap();
        assert_eq!(last, (report.bytes_in, report.bytes_in));
        let output = Gguf::open(&to).unwrap();
        let file_type = output.metadata().integer("general.file_type").unwrap();
        assert_eq!(file_type, Some(target.file_type() as usize));
        assert_eq!(output.metadata().integer("general.quantization_version").unwrap(), Some(2));
        assert_eq!(output.tensors().len(), report.tensors);
        let mut changed = 0;
        for view in output.tensors().iter() {
            let source = input.tensor(view.name).unwrap();
            assert_eq!(view.shape, source.shape);
            let mut expected = vec![0; view.data.len()];
            quantize_row(view.dtype, &values_of(&source), &mut expected);
            assert!(view.data == expected, "{target} {}", view.name);
            changed += usize::from(view.dtype != source.dtype);
        }
        assert_eq!(report.converted, changed);
        assert_eq!(changed == 0, target == Quantization::F32);
        // 96 columns fill no K-quant's block.
        let fallbacks = if target.matrix_type().block_elements() == 256 { 2 } else { 0 };
        assert_eq!(report.fallbacks.len(), fallbacks, "{target}");
        assert_eq!(report.warnings().is_empty(), fallbacks == 0);
    }
}

#[test]
fn tensors_are_written_layer_by_layer_and_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    write_model(&from, DType::F16, |_, _| {});
    quantize(&Gguf::open(&from).unwrap(), &to, Quantization::Q8_0, &mut |_, _, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let output = Gguf::open(&to).unwrap();
    let names: Vec<&str> = output.tensors().iter().map(|view| view.name).collect();
    let layer = ["attn_norm.weight", "attn_q.weight", "attn_v.weight", "ffn_down.weight"];
    let layers = (0..2).flat_map(|l| layer.map(|name| format!("blk.{l}.{name}")));
    let start = ["output.weight", "token_embd.weight"].map(String::from);
    assert_eq!(names, start.into_iter().chain(layers).collect::<Vec<_>>());
}

#[test]
fn a_quantized_file_is_read_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    write_model(&from, DType::Q8_0, |_, _| {});
    let input = Gguf::open(&from).unwrap();
    let report =
        quantize(&input, &to, Quantization::Q4_0, &mut |_, _, _| ControlFlow::Continue(()))
            .unwrap();
    // The head too: Q6_K.
    assert_eq!(report.requantized.len(), 8);
    assert!(report.warnings()[0].contains("8 tensors were quantized already"));
    let output = Gguf::open(&to).unwrap();
    let name = "blk.1.attn_q.weight";
    let (before, after) = (input.tensor(name).unwrap(), output.tensor(name).unwrap());
    let mut expected = vec![0; after.data.len()];
    quantize_row(DType::Q4_0, &values_of(&before), &mut expected);
    assert_eq!((after.dtype, after.data), (DType::Q4_0, &expected[..]));
}

#[test]
fn a_number_that_cannot_be_stored_is_named_and_leaves_no_file() {
    let check = |bad: f32, target: Quantization| {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
        write_model(&from, DType::F32, |name, values| {
            if name == "blk.1.attn_q.weight" {
                values[300 * 512 + 7] = bad;
            }
        });
        let error = quantize(&Gguf::open(&from).unwrap(), &to, target, &mut |_, _, _| {
            ControlFlow::Continue(())
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("blk.1.attn_q.weight: row 300 "), "{bad} {target}: {message}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    };
    check(f32::NAN, Quantization::Q4_K_M);
    check(f32::INFINITY, Quantization::Q8_0);
    check(f32::NEG_INFINITY, Quantization::BF16);
    check(1e6, Quantization::F16);
    check(1e9, Quantization::Q6_K);
}

#[test]
fn pieces_of_any_size_make_the_same_tensor() {
    let values = numbers(37 * 256, 3);
    let mut data = vec![0; 2 * values.len()];
    quantize_row(DType::F16, &values, &mut data);
    let shape = [37, 256];
    let view = TensorView { name: "w", dtype: DType::F16, shape: &shape, data: &data };
    for dtype in [DType::F16, DType::Q6_K, DType::F32] {
        let made = |slab| {
            let (mut rows, mut read) = (Vec::new(), 0);
            let mut sink = |piece: &[u8], bytes: usize| {
                rows.extend_from_slice(piece);
                read += bytes;
                Ok(())
            };
            convert(&view, dtype, slab, &mut sink).unwrap();
            assert_eq!(read, data.len());
            rows
        };
        let whole = made(1 << 30);
        assert_eq!(whole.len(), dtype.bytes(values.len()).unwrap());
        for slab in [1, 700, 5000] {
            assert!(made(slab) == whole, "{dtype} in pieces of {slab}");
        }
    }
}

#[test]
fn whoever_watches_can_stop_it_and_no_file_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    write_model(&from, DType::F32, |_, _| {});
    let input = Gguf::open(&from).unwrap();
    let mut calls = 0;
    let stopped = quantize(&input, &to, Quantization::Q8_0, &mut |_, _, _| {
        calls += 1;
        if calls < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(matches!(stopped, Err(Error::Stopped)) && calls == 3, "{stopped:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the input alone");
}
