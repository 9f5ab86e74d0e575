//! Who owns which KV page: the sequences' tables, reference counts, and the trees of prefixes.
//!
//! The key decision: a node of the tree *is* a page. Its children, its tokens and its age stand in
//! arrays indexed by page number, made once, so that nothing is allocated while sequences grow. A page
//! that is full enters the tree at once, so live sequences share it too; a second page with the same
//! past is dropped for the first (their bytes are equal, see [`yushan_abi::Executor`]). So the full
//! pages of a live sequence are always a path of the tree, and what is unreferenced is given up from
//! the leaves, oldest first. Every tenant has a tree of its own, for as long as it has a live sequence or
//! a page: one that finds a prefix of another would answer sooner, and so tell what the other has asked.
//!
//! Not here: what a page holds (`yushan_tensor::kv`), and when to compute.

use std::collections::BTreeMap;

use yushan_abi::TokenId;

/// No page.
const NONE: u32 = u32::MAX;

/// One sequence: its tokens, and the pages that hold their keys and values.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Its tenant's root.
    root: u32,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) table: Vec<u32>,
    /// Leading pages that are known to be in the tree.
    sealed: usize,
}

/// A page in a tree: what stands on it, and its relatives.
#[derive(Clone, Copy)]
struct Node {
    /// A page, or behind the last page a root.
    parent: u32,
    first_child: u32,
    next_sibling: u32,
    /// Tokens on it; fewer than a page only at a leaf. 0: not in the tree.
    length: u32,
    /// When it was last used.
    used: u64,
}

const OUTSIDE: Node =
    Node { parent: NONE, first_child: NONE, next_sibling: NONE, length: 0, used: 0 };

/// Where a tenant's tree begins.
struct Root {
    /// `None`: free for another.
    tenant: Option<String>,
    first_child: u32,
    /// Live sequences.
    sequences: u32,
}

/// The pages and their trees.
pub(crate) struct Cache {
    page_tokens: usize,
    free: Vec<u32>,
    /// Live sequences that refer to a page.
    references: Vec<u32>,
    nodes: Vec<Node>,
    /// `(page, page_tokens)`
    tokens: Vec<TokenId>,
    roots: Vec<Root>,
    tenants: BTreeMap<String, u32>,
    clock: u64,
    /// Pages in a tree that no live sequence refers to.
    idle: usize,
}

/// A page that must be copied before it is written: from, to.
pub(crate) type Copy = (u32, u32);

impl Cache {
    /// `pages` pages of `page_tokens` tokens.
    pub(crate) fn new(pages: usize, page_tokens: usize) -> Self {
        Self {
            page_tokens,
            free: (0..pages as u32).rev().collect(),
            references: vec![0; pages],
            nodes: vec![OUTSIDE; pages],
            tokens: vec![0; pages * page_tokens],
            roots: Vec::new(),
            tenants: BTreeMap::new(),
            clock: 0,
            idle: 0,
        }
    }

    /// Pages that can still be handed out.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle
    }

    /// Pages kept only because their prefix may come again.
    pub(crate) fn idle(&self) -> usize {
        self.idle
    }

    /// Pages there are.
    pub(crate) fn capacity(&self) -> usize {
        self.nodes.len()
    }

    /// Opens a sequence that shares the longest prefix of `prompt` that the tenant's tree knows, but not
    /// its last token. The sequence has room for `context` tokens.
    pub(crate) fn admit(&mut self, tenant: &str, prompt: &[TokenId], context: usize) -> Sequence {
        let root = self.enter(tenant);
        let mut sequence = Sequence {
            root,
            tokens: Vec::with_capacity(context),
            table: Vec::with_capacity(context.div_ceil(self.page_tokens)),
            sealed: 0,
        };
        let wanted = &prompt[..prompt.len().saturating_sub(1)];
        let mut parent = root;
        self.clock += 1;
        loop {
            let rest = &wanted[sequence.tokens.len()..];
            let (child, common) = self.best_child(parent, rest);
            if common == 0 {
                return sequence;
            }
            sequence.tokens.extend_from_slice(&rest[..common]);
            sequence.table.push(child);
            self.nodes[child as usize].used = self.clock;
            self.acquire(child);
            if common < self.page_tokens {
                return sequence;
            }
            sequence.sealed += 1;
            parent = child;
        }
    }

    /// A second sequence with the same past.
    pub(crate) fn fork(&mut self, parent: &Sequence, context: usize) -> Sequence {
        let root = self.root_at(parent.root);
        self.roots[root].sequences += 1;
        let mut sequence = Sequence {
            root: parent.root,
            tokens: Vec::with_capacity(context),
            table: Vec::with_capacity(context.div_ceil(self.page_tokens)),
            sealed: parent.sealed,
        };
        sequence.tokens.extend_from_slice(&parent.tokens);
        sequence.table.extend_from_slice(&parent.table);
        parent.table.iter().for_each(|&page| self.acquire(page));
        sequence
    }

    /// Pages that growing by `count` tokens takes from [`Cache::available`].
    pub(crate) fn needed(&self, sequence: &Sequence, count: usize) -> usize {
        let pages = (sequence.tokens.len() + count).div_ceil(self.page_tokens);
        pages - sequence.table.len() + usize::from(self.must_copy(sequence))
    }

    /// Gives the sequence pages for `count` more tokens. The caller has checked that there are enough,
    /// and copies what is returned before it writes.
    pub(crate) fn grow(&mut self, sequence: &mut Sequence, tokens: &[TokenId]) -> Option<Copy> {
        let mut copy = None;
        if self.must_copy(sequence)
            && let Some(last) = sequence.table.last().copied()
        {
            let page = self.take();
            copy = Some((last, page));
            self.release_page(last);
            sequence.table.pop();
            sequence.table.push(page);
        }
        sequence.tokens.extend_from_slice(tokens);
        for _ in sequence.table.len()..sequence.tokens.len().div_ceil(self.page_tokens) {
            let page = self.take();
            sequence.table.push(page);
        }
        copy
    }

    /// Puts the sequence's full pages into the tree; after their keys and values were written.
    pub(crate) fn seal(&mut self, sequence: &mut Sequence) {
        while (sequence.sealed + 1) * self.page_tokens <= sequence.tokens.len() {
            self.insert(sequence, sequence.sealed, self.page_tokens);
            sequence.sealed += 1;
        }
    }

    /// Forgets everything after the first `length` tokens.
    pub(crate) fn truncate(&mut self, sequence: &mut Sequence, length: usize) {
        sequence.tokens.truncate(length);
        for page in sequence.table.drain(length.div_ceil(self.page_tokens)..) {
            release(&mut self.references, &self.nodes, &mut self.free, &mut self.idle, page);
        }
        sequence.sealed = sequence.sealed.min(length / self.page_tokens);
    }

    /// Closes a sequence; its pages stay in the tree.
    pub(crate) fn close(&mut self, mut sequence: Sequence) {
        self.seal(&mut sequence);
        let left = sequence.tokens.len() - sequence.sealed * self.page_tokens;
        if left > 0 {
            let at = sequence.sealed;
            self.insert(&mut sequence, at, left);
        }
        self.discard(sequence);
    }

    /// Closes a sequence; what is not in the tree yet is forgotten.
    pub(crate) fn discard(&mut self, sequence: Sequence) {
        for page in sequence.table {
            self.release_page(page);
        }
        let at = self.root_at(sequence.root);
        self.roots[at].sequences -= 1;
        self.forget_root(sequence.root);
    }

    /// Gives up every page that no live sequence refers to.
    pub(crate) fn clear_idle(&mut self) {
        while self.idle > 0 {
            let page = self.evict();
            self.free.push(page);
        }
    }

    /// Whether the sequence's last page is partly filled and not its own alone.
    fn must_copy(&self, sequence: &Sequence) -> bool {
        let partial = !sequence.tokens.len().is_multiple_of(self.page_tokens);
        partial
            && sequence.table.last().is_some_and(|&page| {
                let page = page as usize;
                self.references[page] > 1 || self.nodes[page].length > 0
            })
    }

    /// Puts page `at` of the sequence, with `length` tokens on it, into the tree, or takes the page
    /// that is there already in its place.
    fn insert(&mut self, sequence: &mut Sequence, at: usize, length: usize) {
        let page = sequence.table[at];
        let start = at * self.page_tokens;
        let tokens = &sequence.tokens[start..start + length];
        let parent = if at == 0 { sequence.root } else { sequence.table[at - 1] };
        self.clock += 1;
        if self.nodes[page as usize].length > 0 {
            self.nodes[page as usize].used = self.clock;
            return;
        }
        let (twin, common) = self.best_child(parent, tokens);
        if common == length {
            self.nodes[twin as usize].used = self.clock;
            self.acquire(twin);
            self.release_page(page);
            sequence.table[at] = twin;
            return;
        }
        self.tokens[page as usize * self.page_tokens..][..length].copy_from_slice(tokens);
        let head = self.head(parent);
        let next_sibling = std::mem::replace(head, page);
        let used = self.clock;
        self.nodes[page as usize] =
            Node { parent, first_child: NONE, next_sibling, length: length as u32, used };
    }

    /// The child of `parent` whose tokens share the longest beginning with `rest`, and its length.
    fn best_child(&self, parent: u32, rest: &[TokenId]) -> (u32, usize) {
        let mut child = match self.nodes.get(parent as usize) {
            Some(node) => node.first_child,
            None => self.roots[self.root_at(parent)].first_child,
        };
        let mut best = (NONE, 0);
        while child != NONE {
            let node = &self.nodes[child as usize];
            let tokens = &self.tokens[child as usize * self.page_tokens..][..node.length as usize];
            let common = tokens.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common > best.1 {
                best = (child, common);
            }
            child = node.next_sibling;
        }
        best
    }

    /// Where the first child of `parent` is named.
    fn head(&mut self, parent: u32) -> &mut u32 {
        let root = self.root_at(parent);
        match self.nodes.get_mut(parent as usize) {
            Some(node) => &mut node.first_child,
            None => &mut self.roots[root].first_child,
        }
    }

    /// Roots are numbered on from the pages. 0 for a page.
    fn root_at(&self, root: u32) -> usize {
        (root as usize).saturating_sub(self.nodes.len())
    }

    /// The root of a tenant, with one live sequence more.
    fn enter(&mut self, tenant: &str) -> u32 {
        let root = match self.tenants.get(tenant) {
            Some(&root) => root,
            None => {
                let name = Some(tenant.to_string());
                let fresh = Root { tenant: name, first_child: NONE, sequences: 0 };
                let free = self.roots.iter().position(|root| root.tenant.is_none());
                let at = free.unwrap_or(self.roots.len());
                match self.roots.get_mut(at) {
                    Some(root) => *root = fresh,
                    None => self.roots.push(fresh),
                }
                let root = (self.nodes.len() + at) as u32;
                self.tenants.insert(tenant.to_string(), root);
                root
            }
        };
        let at = self.root_at(root);
        self.roots[at].sequences += 1;
        root
    }

    /// Forgets a tenant of whom nothing is left.
    fn forget_root(&mut self, root: u32) {
        let at = self.root_at(root);
        let root = &mut self.roots[at];
        if root.sequences == 0
            && root.first_child == NONE
            && let Some(tenant) = root.tenant.take()
        {
            self.tenants.remove(&tenant);
        }
    }

    /// A page for a sequence: a free one, or the oldest idle leaf of the tree.
    fn take(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_else(|| self.evict());
        self.references[page as usize] = 1;
        page
    }

    fn evict(&mut self) -> u32 {
        let oldest = self
            .nodes
            .iter()
            .zip(&self.references)
            .enumerate()
            .filter(|(_, (node, references))| {
                node.length > 0 && **references == 0 && node.first_child == NONE
            })
            .min_by_key(|(_, (node, _))| node.used);
        let (page, _) = oldest.expect("the caller checked that a page is available");
        self.unlink(page as u32);
        self.idle -= 1;
        page as u32
    }

    fn unlink(&mut self, page: u32) {
        let Node { parent, next_sibling, .. } = self.nodes[page as usize];
        let head = self.head(parent);
        if *head == page {
            *head = next_sibling;
        } else {
            let mut at = *head;
            while self.nodes[at as usize].next_sibling != page {
                at = self.nodes[at as usize].next_sibling;
            }
            self.nodes[at as usize].next_sibling = next_sibling;
        }
        self.nodes[page as usize] = OUTSIDE;
        if parent as usize >= self.nodes.len() {
            self.forget_root(parent);
        }
    }

    fn acquire(&mut self, page: u32) {
        let references = &mut self.references[page as usize];
        if *references == 0 {
            self.idle -= 1;
        }
        *references += 1;
    }

    fn release_page(&mut self, page: u32) {
        release(&mut self.references, &self.nodes, &mut self.free, &mut self.idle, page);
    }
}

/// Takes back a reference; without references a page is idle in the tree or free.
fn release(
    references: &mut [u32],
    nodes: &[Node],
    free: &mut Vec<u32>,
    idle: &mut usize,
    page: u32,
) {
    let count = &mut references[page as usize];
    *count -= 1;
    if *count == 0 {
        if nodes[page as usize].length > 0 {
            *idle += 1;
        } else {
            free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Grows a sequence as the engine does; `pages` stands for the slab: a page's tokens.
    fn grow(cache: &mut Cache, pages: &mut [Vec<TokenId>], s: &mut Sequence, tokens: &[TokenId]) {
        let start = s.tokens.len();
        if let Some((from, to)) = cache.grow(s, tokens) {
            pages[to as usize] = pages[from as usize].clone();
        }
        for (i, &token) in tokens.iter().enumerate() {
            let at = start + i;
            let page = &mut pages[s.table[at / cache.page_tokens] as usize];
            page.resize(cache.page_tokens, 0);
            page[at % cache.page_tokens] = token;
        }
        cache.seal(s);
    }

    fn check(cache: &Cache, pages: &[Vec<TokenId>], live: &[Sequence]) {
        let mut references = vec![0; cache.capacity()];
        for s in live {
            assert_eq!(s.table.len(), s.tokens.len().div_ceil(cache.page_tokens));
            for (at, &page) in s.table.iter().enumerate() {
                references[page as usize] += 1;
                let tokens = s.tokens.iter().skip(at * cache.page_tokens).take(cache.page_tokens);
                for (i, token) in tokens.enumerate() {
                    assert_eq!(pages[page as usize][i], *token, "page {page} of {:?}", s.table);
                }
            }
        }
        assert_eq!(references, cache.references);
        let in_tree = |page: usize| cache.nodes[page].length > 0;
        let idle = (0..references.len()).filter(|&p| in_tree(p) && references[p] == 0).count();
        assert_eq!(idle, cache.idle);
        let lost = (0..references.len()).filter(|&p| !in_tree(p) && references[p] == 0).count();
        assert_eq!(lost, cache.free.len(), "every page is live, in the tree, or free");
        check_tenants(cache, live);
    }

    /// A tree holds pages of its own tenant alone (a page's tenant is the first of its tokens, by how
    /// the test makes them), and a tenant of whom nothing is left is forgotten.
    fn check_tenants(cache: &Cache, live: &[Sequence]) {
        for (tenant, &root) in &cache.tenants {
            let at = cache.root_at(root);
            assert_eq!(cache.roots[at].tenant.as_ref(), Some(tenant));
            let of_root = live.iter().filter(|s| s.root == root);
            assert_eq!(cache.roots[at].sequences as usize, of_root.clone().count());
            let mut pages = vec![cache.roots[at].first_child];
            assert!(of_root.count() > 0 || pages[0] != NONE, "{tenant} is remembered for nothing");
            while let Some(page) = pages.pop().filter(|&page| page != NONE) {
                let node = cache.nodes[page as usize];
                pages.extend([node.next_sibling, node.first_child].iter().filter(|&&p| p != NONE));
                if node.parent == root {
                    let first = cache.tokens[page as usize * cache.page_tokens];
                    assert_eq!(*tenant, TENANTS[first as usize % TENANTS.len()]);
                }
            }
        }
        let known = cache.roots.iter().filter(|root| root.tenant.is_some()).count();
        assert_eq!(known, cache.tenants.len());
    }

    const TENANTS: [&str; 3] = ["", "ada", "bob"];

    fn tenant_of(cache: &Cache, s: &Sequence) -> usize {
        let tenant = cache.roots[cache.root_at(s.root)].tenant.as_deref();
        TENANTS.iter().position(|name| Some(*name) == tenant).expect("it is alive")
    }

    proptest! {
        #[test]
        fn any_mix_of_operations_keeps_every_sequence_whole(
            steps in prop::collection::vec((0u8..7, 0usize..8, 0usize..11, 0u32..3), 1..120)
        ) {
            let mut cache = Cache::new(24, 4);
            let mut pages = vec![Vec::new(); 24];
            let mut live: Vec<Sequence> = Vec::new();
            for (what, which, count, token) in steps {
                let at = if live.is_empty() { 0 } else { which % live.len() };
                let tokens = |tenant: usize| -> Vec<TokenId> {
                    (0..count as u32).map(|i| token * (i % 3) * 3 + tenant as u32).collect()
                };
                match what {
                    0 if live.len() < 5 => {
                        let tenant = which % TENANTS.len();
                        let tokens = tokens(tenant);
                        let mut s = cache.admit(TENANTS[tenant], &tokens, 64);
                        prop_assert!(s.tokens.len() < tokens.len().max(1));
                        let rest = &tokens[s.tokens.len()..];
                        if cache.needed(&s, rest.len()) <= cache.available() {
                            grow(&mut cache, &mut pages, &mut s, rest);
                        }
                        live.push(s);
                    }
                    1 if !live.is_empty() && live.len() < 5 => {
                        let s = cache.fork(&live[at], 64);
                        live.push(s);
                    }
                    2 if !live.is_empty() => {
                        let length = live[at].tokens.len() * which / 8;
                        cache.truncate(&mut live[at], length);
                    }
                    3 if !live.is_empty() => cache.close(live.swap_remove(at)),
                    4 if !live.is_empty() => cache.discard(live.swap_remove(at)),
                    _ if !live.is_empty()
                        && cache.needed(&live[at], count) <= cache.available() =>
                    {
                        let tokens = tokens(tenant_of(&cache, &live[at]));
                        grow(&mut cache, &mut pages, &mut live[at], &tokens);
                    }
                    _ => {}
                }
                check(&cache, &pages, &live);
            }
        }
    }

    #[test]
    fn a_prompt_finds_its_prefix_to_the_token() {
        let mut cache = Cache::new(16, 4);
        let mut pages = vec![Vec::new(); 16];
        let mut first = cache.admit("", &[1, 2, 3, 4, 5, 6, 7], 64);
        assert!(first.tokens.is_empty());
        grow(&mut cache, &mut pages, &mut first, &[1, 2, 3, 4, 5, 6, 7]);
        // Full pages are shared with the living, the partial one only after it was closed.
        let second = cache.admit("", &[1, 2, 3, 4, 5, 6, 9], 64);
        assert_eq!(second.tokens.len(), 4);
        cache.close(second);
        cache.close(first);
        let third = cache.admit("", &[1, 2, 3, 4, 5, 6, 9], 64);
        assert_eq!(third.tokens, [1, 2, 3, 4, 5, 6]);
        let last = cache.admit("", &[1, 2, 3, 4], 64);
        assert_eq!(last.tokens, [1, 2, 3], "the last token is left for a step");
    }

    #[test]
    fn a_tenant_finds_nothing_of_another_and_is_forgotten_with_its_last_page() {
        let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut cache = Cache::new(6, 4);
        let mut pages = vec![Vec::new(); 6];
        for tenant in ["ada", "bob", ""] {
            let mut s = cache.admit(tenant, &prompt, 64);
            assert!(s.tokens.is_empty(), "{tenant} found what another has asked");
            grow(&mut cache, &mut pages, &mut s, &prompt);
            cache.close(s);
        }
        let again = cache.admit("ada", &prompt, 64);
        assert_eq!(again.tokens, prompt[..7]);
        cache.clear_idle();
        assert_eq!(cache.tenants.keys().collect::<Vec<_>>(), ["ada"]);
        cache.close(again);
        cache.clear_idle();
        assert_eq!((cache.tenants.len(), cache.roots.len()), (0, 3), "roots are used again");
        for i in 0..100 {
            let s = cache.admit(&format!("visitor {i}"), &prompt, 64);
            cache.close(s);
        }
        assert_eq!((cache.tenants.len(), cache.roots.len()), (0, 3));
    }
}
