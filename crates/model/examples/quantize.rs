//! `quantize IN OUT TYPE`: drives `yushan_model::quantize` until the command line covers it.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, target] = arguments.as_slice() else {
        return Err("usage: quantize IN OUT TYPE".into());
    };
    let input = yushan_model::gguf::Gguf::open(Path::new(input))?;
    let report = yushan_model::quantize::quantize(
        &input,
        Path::new(output),
        target.parse()?,
        &mut |_, _, _| {},
    )?;
    println!("{} of {} tensors converted", report.converted, report.tensors);
    report.warnings().iter().for_each(|warning| println!("warning: {warning}"));
    Ok(())
}
