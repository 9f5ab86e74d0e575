use std::ops::Range;
/// What a tensor is to an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `(V, D)`, looked up; the head as well when tied.
    Embedding,
    /// A matrix of a block, `(out, in)`.
    Matrix,
    /// Weights of a norm, `(D)`.
    Norm,
    /// `(V, D)`, the head when it is not tied.
    Head,
}
/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// As in a Hugging Face checkpoint.
    pub name: String,
    /// `(out, in)`, or `(D)`.
    pub shape: Vec<usize>,
    /// Its place in the flat buffer.
    pub range: Range<usize>,
    /// What it is.
    pub kind: Kind,
}
