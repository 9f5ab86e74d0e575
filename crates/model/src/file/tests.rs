//! Every format opens under the same names with the same numbers; what is wrong is named.

use super::*;

#[test]
fn the_story_model_opens_with_its_tokenizer() {
    let Some(path) = crate::shared_data("weights/stories260K/stories260K.bin") else { return };
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.format(), Format::Llama2c);
    let config = file.config();
    assert_eq!((config.dim, config.layers, config.heads, config.kv_heads), (64, 5, 8, 4));
    assert_eq!((config.ffn, config.vocabulary, config.context), (172, 512, 512));
    file.expect("blk.4.ffn_down.weight", &[64, 172]).unwrap();
    assert!(file.tensor("output.weight").is_none());
    assert_eq!(file.tokenizer(None).unwrap().vocabulary_size(), 512);
}
