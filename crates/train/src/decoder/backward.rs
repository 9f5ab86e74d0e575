//! The backward pass: the steps of [`super::forward`] in opposite order.

use std::ops::Range;

use yushan_abi::TokenId;
use yushan_tensor::Pool;
use yushan_tensor::gemm::Store;
use yushan_tensor::train_attention::{self, Turns};
use yushan_tensor::train_rows::{
    embed_backward, gate_backward, losses, normalize, normalize_backward,
};

use super::shape::IGNORE;
use super::workspace::{Cut, Workspace, causal};
use super::{Decoder, Loss, Shape};

/// Gets each range that is final, with all gradients.
pub(super) type Final<'a> = &'a mut dyn FnMut(Range<usize>, &mut [f32]);

impl Decoder {
    /// Takes a group that has just gone forward back, and adds its gradients.
    pub(super) fn backward(
        &mut self,
        pool: &mut Pool,
        work: &mut Workspace,
        (tokens, targets): (&[TokenId], &[TokenId]),
        scale: f32,
        ready: Final<'_>,
    ) -> Loss {
        let (dim, rows) = (self.shape.dim, tokens.len());
        let loss = self.head_backward(pool, work, targets, scale);
        let (norm, head) = (self.places.norm.clone(), self.places.head.clone());
        if self.shape.tied {
            ready(norm, &mut self.grads);
        } else {
            ready(norm.start..head.end, &mut self.grads);
        }
        for l in (0..self.shape.layers).rev() {
            if work.fetch(l) {
                self.block(pool, work, l, rows);
            }
            self.block_backward(pool, work, l, rows);
            ready(self.places.blocks[l].range(), &mut self.grads);
        }
        let embedding = self.places.embedding.clone();
        let dx = &work.dx[..rows * dim];
        embed_backward(pool, self.isa, tokens, dx, dim, &mut self.grads[embedding.clone()]);
        ready(embedding, &mut self.grads);
        loss
    }

    /// The losses, and the gradient of the end of the stream in `work.dx`. Logits are made a few rows at a
    /// time, become their own gradient, and are multiplied into both sides at once.
    fn head_backward(
        &mut self,
        pool: &mut Pool,
        work: &mut Workspace,
        targets: &[TokenId],
        scale: f32,
    ) -> Loss {
        let Shape { dim, vocabulary, norm_eps, .. } = self.shape;
        let rows = targets.len();
        self.last_norm(pool, work, rows);
        let head = &self.params[self.places.head.clone()];
        let dhead = &mut self.grads[self.places.head.clone()];
        let (some, stride) = (work.cut.logit_rows, Cut::logit_stride(&self.shape));
        let x = work.normed[..rows * dim].chunks(some * dim);
        let dx = work.dnormed[..rows * dim].chunks_mut(some * dim);
        let out = work.losses[..rows].chunks_mut(some);
        for (((x, dx), targets), out) in x.zip(dx).zip(targets.chunks(some)).zip(out) {
            let logits = &mut work.logits[..targets.len() * stride];
            self.products.forward(pool, (x, head), dim, (logits, Store::Set));
            losses(pool, self.isa, (logits, vocabulary), (targets, IGNORE), scale, out);
            self.products.input_gradient(pool, (logits, head), dim, dx);
            self.products.weight_gradient(pool, (logits, x), dim, dhead);
        }
        let dx = &mut work.dx[..rows * dim];
        dx.fill(0.0);
        let norm = (&self.params[self.places.norm.clone()], norm_eps);
        let both = (&work.next[..rows * dim], &work.dnormed[..rows * dim]);
        let to = (dx, &mut self.grads[self.places.norm.clone()]);
        normalize_backward(pool, self.isa, both, norm, to, &mut work.partial);
        Loss {
            sum: work.losses[..rows].iter().map(|&loss| f64::from(loss)).sum(),
            count: targets.iter().filter(|&&target| target != IGNORE).count() as u64,
        }
    }

    /// Block `l`: `work.dx` goes from the gradient of its output to that of its input.
    fn block_backward(&mut self, pool: &mut Pool, work: &mut Workspace, l: usize, rows: usize) {
        let Shape { dim, ffn, heads, norm_eps, .. } = self.shape;
        let (q, kv) = (self.shape.q_width(), self.shape.kv_width());
        let (isa, block) = (self.isa, &self.places.blocks[l]);
        let (w, g, products) = (&self.params, &mut self.grads, &mut self.products);
        let slot = work.slot(l);
        let s = &mut work.saved[slot];
        let dx = &mut work.dx[..rows * dim];
        let (normed, dnormed) = (&mut work.normed[..rows * dim], &mut work.dnormed[..rows * dim]);

        // x += down(gate(gate_up(norm(x))))
        let (hidden, dhidden) = (&mut work.hidden[..rows * ffn], &mut work.dhidden[..rows * ffn]);
        let (middle, gate_up) = (&s.middle[..rows * dim], &mut s.gate_up[..rows * 2 * ffn]);
        products.input_gradient(pool, (dx, &w[block.down.clone()]), ffn, dhidden);
        gate_backward(pool, isa, gate_up, ffn, dhidden, hidden);
        products.weight_gradient(pool, (dx, hidden), ffn, &mut g[block.down.clone()]);
        let norm = (&w[block.ffn_norm.clone()], norm_eps);
        normalize(pool, isa, middle, norm, normed, None);
        products.weight_gradient(pool, (gate_up, normed), dim, &mut g[block.gate_up.clone()]);
        products.input_gradient(pool, (gate_up, &w[block.gate_up.clone()]), dim, dnormed);
        let to = (&mut *dx, &mut g[block.ffn_norm.clone()]);
        normalize_backward(pool, isa, (middle, dnormed), norm, to, &mut work.partial);

        // x += output(attention(qkv(norm(x))))
        let (x, qkv) = (&s.x[..rows * dim], &s.qkv[..rows * (q + 2 * kv)]);
        let attended = &s.attended[..rows * q];
        let dattended = &mut work.dattended[..rows * q];
        let dqkv = &mut work.dqkv[..rows * (q + 2 * kv)];
        products.input_gradient(pool, (dx, &w[block.output.clone()]), q, dattended);
        products.weight_gradient(pool, (dx, attended), q, &mut g[block.output.clone()]);
        let turns = Turns { cos: &work.cos, sin: &work.sin };
        let shape = causal(&self.shape, rows / work.cut.time, work.cut.time);
        let saved = (attended, &s.lse[..rows * heads], &*dattended);
        let room = &mut work.attention;
        train_attention::backward(pool, isa, &shape, (qkv, turns), saved, dqkv, room);
        let norm = (&w[block.attn_norm.clone()], norm_eps);
        normalize(pool, isa, x, norm, normed, None);
        products.weight_gradient(pool, (dqkv, normed), dim, &mut g[block.qkv.clone()]);
        products.input_gradient(pool, (dqkv, &w[block.qkv.clone()]), dim, dnormed);
        let to = (dx, &mut g[block.attn_norm.clone()]);
        normalize_backward(pool, isa, (x, dnormed), norm, to, &mut work.partial);
    }
}
