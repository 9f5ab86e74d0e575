//! `convert IN OUT.gguf`: drives `yushan_model::convert` until the command line covers it.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = arguments.as_slice() else {
        return Err("usage: convert IN OUT.gguf".into());
    };
    let report =
        yushan_model::convert::convert(Path::new(input), Path::new(output), &mut |_, _, _| {})?;
    println!("{} tensors, {} bytes", report.tensors, report.bytes_out);
    report.warnings.iter().for_each(|warning| println!("warning: {warning}"));
    Ok(())
}
