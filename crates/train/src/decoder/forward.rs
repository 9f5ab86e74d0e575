//! The forward pass, from token ids to losses; [`super::backward`] is its mirror.

use yushan_abi::TokenId;
use yushan_tensor::Pool;
use yushan_tensor::gemm::Store;
use yushan_tensor::train_attention::{self, Turns};
use yushan_tensor::train_rows::{embed, gate, losses, normalize};

use super::shape::IGNORE;
use super::workspace::{Cut, Workspace, causal};
use super::{Decoder, Shape};

impl Decoder {
    /// Runs a group through all blocks; the end of the stream is left in `work.next`.
    pub(super) fn forward(
        &mut self,
        pool: &mut Pool,
        work: &mut Workspace,
        tokens: &[TokenId],
        gradients: bool,
    ) {
        let dim = self.shape.dim;
        let table = &self.params[self.places.embedding.clone()];
        embed(pool, tokens, table, dim, &mut work.next[..tokens.len() * dim]);
        for l in 0..self.shape.layers {
            let slot = work.slot(l);
            std::mem::swap(&mut work.next, &mut work.saved[slot].x);
            self.block(pool, work, l, tokens.len());
            if gradients {
                work.stash(l);
            }
        }
    }

    /// Block `l`: from `x` of its slot to `work.next`, over `rows` rows.
    pub(super) fn block(&mut self, pool: &mut Pool, work: &mut Workspace, l: usize, rows: usize) {
        let Shape { dim, ffn, heads, norm_eps, .. } = self.shape;
        let (q, kv) = (self.shape.q_width(), self.shape.kv_width());
        let (isa, block, w) = (self.isa, &self.places.blocks[l], &self.params);
        let slot = work.slot(l);
        let s = &mut work.saved[slot];
        let (x, middle) = (&s.x[..rows * dim], &mut s.middle[..rows * dim]);
        let qkv = &mut s.qkv[..rows * (q + 2 * kv)];
        let attended = &mut s.attended[..rows * q];
        let normed = &mut work.normed[..rows * dim];

        let norm = (&w[block.attn_norm.clone()], norm_eps);
        normalize(pool, isa, x, norm, normed, Some(&mut *middle));
        self.products.forward(pool, (normed, &w[block.qkv.clone()]), dim, (qkv, Store::Set));
        let turns = Turns { cos: &work.cos, sin: &work.sin };
        let shape = causal(&self.shape, rows / work.cut.time, work.cut.time);
        let to = (&mut *attended, &mut s.lse[..rows * heads]);
        train_attention::forward(pool, isa, &shape, (qkv, turns), to, &mut work.attention);
        let output = &w[block.output.clone()];
        self.products.forward(pool, (attended, output), q, (middle, Store::Add));

        let (next, hidden) = (&mut work.next[..rows * dim], &mut work.hidden[..rows * ffn]);
        let gate_up = &mut s.gate_up[..rows * 2 * ffn];
        let norm = (&w[block.ffn_norm.clone()], norm_eps);
        normalize(pool, isa, middle, norm, normed, Some(&mut *next));
        self.products.forward(
            pool,
            (normed, &w[block.gate_up.clone()]),
            dim,
            (gate_up, Store::Set),
        );
        gate(pool, isa, gate_up, ffn, hidden);
        self.products.forward(pool, (hidden, &w[block.down.clone()]), ffn, (next, Store::Add));
    }

    /// Losses of the end of the stream, into `work.losses`; the logits of a few rows at a time.
    pub(super) fn head_losses(
        &mut self,
        pool: &mut Pool,
        work: &mut Workspace,
        targets: &[TokenId],
    ) {
        let Shape { dim, vocabulary, .. } = self.shape;
        self.last_norm(pool, work, targets.len());
        let head = &self.params[self.places.head.clone()];
        let (some, stride) = (work.cut.logit_rows, Cut::logit_stride(&self.shape));
        let rows = work.normed[..targets.len() * dim].chunks(some * dim);
        for ((x, targets), out) in rows.zip(targets.chunks(some)).zip(work.losses.chunks_mut(some))
        {
            let logits = &mut work.logits[..targets.len() * stride];
            self.products.forward(pool, (x, head), dim, (logits, Store::Set));
            let out = &mut out[..targets.len()];
            losses(pool, self.isa, (logits, vocabulary), (targets, IGNORE), 0.0, out);
        }
    }

    /// All logits of the end of the stream.
    pub(super) fn head_logits(
        &mut self,
        pool: &mut Pool,
        work: &mut Workspace,
        rows: usize,
    ) -> Vec<f32> {
        let Shape { dim, vocabulary, .. } = self.shape;
        self.last_norm(pool, work, rows);
        let mut logits = vec![0.0; rows * vocabulary];
        let head = &self.params[self.places.head.clone()];
        let x = &work.normed[..rows * dim];
        self.products.forward(pool, (x, head), dim, (&mut logits, Store::Set));
        logits
    }

    /// Norms the end of the stream into `work.normed`.
    pub(super) fn last_norm(&self, pool: &mut Pool, work: &mut Workspace, rows: usize) {
        let (dim, norm) = (self.shape.dim, &self.params[self.places.norm.clone()]);
        let (x, normed) = (&work.next[..rows * dim], &mut work.normed[..rows * dim]);
        normalize(pool, self.isa, x, (norm, self.shape.norm_eps), normed, None);
    }
}
