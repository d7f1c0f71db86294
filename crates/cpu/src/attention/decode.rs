//! One row on vector registers. Keys and values are read once, as they are stored, for all query
//! heads that share them; a lane is a number of the head.

use std::ops::Range;

use half::f16;

use crate::attention::lanes::{AttentionLanes, base, soft_cap};
use crate::attention::load_kv::unpack;
use crate::attention::{Numbers, PAGE_TOKENS, Partial, Queries, pages};
use crate::kv_cache::{Head, SCALE_SPAN};
use crate::packed::tiles::LINE;
use crate::simd::{exp, prefetch, prefetch_far};

/// Query heads that are taken at the same time.
const HEADS: usize = 2;
/// Keys whose products are made at the same time.
const KEYS: usize = 4;
/// Registers of a value whose sums are made at the same time.
const REGISTERS: usize = 4;

/// Keys or values of a page: `[PAGE_TOKENS, head_dim]` numbers.
///
/// # Safety
/// Methods may be called only on a machine that has the instructions of `V`, for numbers inside the
/// page.
trait Page<V: AttentionLanes>: Copy {
    /// Numbers from `index` on.
    unsafe fn load(self, index: usize) -> V;

    /// The first `count` numbers (fewer than a register) from `index` on, and zeros. Only for `f32`.
    unsafe fn load_part(self, index: usize, count: usize) -> V;

    /// Asks for the memory of the page that is read next, where this one has the number `index`.
    fn ask(self, index: usize);
}

/// From a page to the one that is read next, and to the one after that, in bytes. What is read next is asked
/// for into the first level of cache, what comes then into the second, which can wait for more of memory at
/// the same time.
#[derive(Clone, Copy)]
struct Ahead {
    next: isize,
    far: isize,
}

impl Ahead {
    fn new([head, next, far]: [Head<'_>; 3]) -> Self {
        let to = |other: Head<'_>| other.start().addr().wrapping_sub(head.start().addr()) as isize;
        Self { next: to(next), far: to(far) }
    }

    #[inline(always)]
    fn ask<T>(self, at: *const T, index: usize) {
        // Once for each line.
        if index.is_multiple_of(LINE / size_of::<T>()) {
            let at = at.wrapping_add(index);
            prefetch_far(at.wrapping_byte_offset(self.far).cast());
            prefetch(at.wrapping_byte_offset(self.next).cast());
        }
    }
}

#[derive(Clone, Copy)]
struct Floats(*const f32, Ahead);

impl<V: AttentionLanes> Page<V> for Floats {
    #[inline(always)]
    unsafe fn load(self, index: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(self.0.add(index)) }
    }

    #[inline(always)]
    unsafe fn load_part(self, index: usize, count: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_part(self.0.add(index), count) }
    }

    #[inline(always)]
    fn ask(self, index: usize) {
        self.1.ask(self.0, index);
    }
}

/// A head of whole registers only.
#[derive(Clone, Copy)]
struct Halves(*const f16, Ahead);

impl<V: AttentionLanes> Page<V> for Halves {
    #[inline(always)]
    unsafe fn load(self, index: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(self.0.add(index).cast()) }
    }

    #[inline(always)]
    unsafe fn load_part(self, _: usize, _: usize) -> V {
        unreachable!("a head of whole registers")
    }

    #[inline(always)]
    fn ask(self, index: usize) {
        self.1.ask(self.0, index);
    }
}

/// A head of whole runs that share a scale.
#[derive(Clone, Copy)]
struct Codes {
    codes: *const i8,
    /// Widened.
    scales: *const f32,
    ahead: Ahead,
}

impl<V: AttentionLanes> Page<V> for Codes {
    #[inline(always)]
    unsafe fn load(self, index: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = V::splat(*self.scales.add(index / SCALE_SPAN));
            V::load_i8(self.codes.add(index)).mul(scale)
        }
    }

    #[inline(always)]
    unsafe fn load_part(self, _: usize, _: usize) -> V {
        unreachable!("a head of whole registers")
    }

    #[inline(always)]
    fn ask(self, index: usize) {
        self.ahead.ask(self.codes, index);
    }
}

/// What is done with a page, whichever way it is stored.
trait PageTask<V: AttentionLanes> {
    /// # Safety
    /// The machine must have the instructions of `V`; the page must have as many numbers as the task
    /// asks for.
    unsafe fn run<P: Page<V>>(&mut self, page: P);
}

/// Runs `task` on the first of `heads`, unpacking it into `room` if it has no whole registers; the others are
/// read next.
///
/// # Safety
/// The machine must have the instructions of `V`; `task` must not ask for more than `count` tokens of
/// `head_dim` numbers.
#[inline(always)]
unsafe fn on_page<V: AttentionLanes>(
    heads: [Head<'_>; 3],
    head_dim: usize,
    count: usize,
    room: &mut [f32],
    task: &mut impl PageTask<V>,
) {
    let (head, ahead) = (heads[0], Ahead::new(heads));
    let used = count * head_dim;
    // SAFETY: the caller vouches for the instructions; each page has `used` numbers at least.
    unsafe {
        match head {
            Head::F16(values) if head_dim.is_multiple_of(V::COUNT) => {
                task.run(Halves(values[..used].as_ptr(), ahead));
            }
            Head::Q8_0 { codes, scales } if head_dim.is_multiple_of(SCALE_SPAN) => {
                let room = &mut room[..used / SCALE_SPAN];
                crate::attention::load_kv::unpack_f16::<V>(&scales[..room.len()], room);
                let codes = codes[..used].as_ptr();
                task.run(Codes { codes, scales: room.as_ptr(), ahead });
            }
            _ => {
                let values = unpack::<V>(head, head_dim, count, Numbers::Float, room);
                task.run(Floats(values[..used].as_ptr(), ahead));
            }
        }
    }
}

/// Attends the first row to `tokens`: see [`crate::attention::AttentionKernels::split`].
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn split<V: AttentionLanes>(
    queries: &Queries<'_>,
    tokens: Range<usize>,
    partial: Partial<'_>,
    work: &mut [f32],
) {
    let (spec, head_dim, group) = (queries.spec, queries.spec.head_dim, queries.group());
    let count = tokens.len();
    let (scores, room) = work.split_at_mut(group * count);
    let (room, row) = room.split_at_mut(PAGE_TOKENS * head_dim);
    let row = queries.part(0, 0..group * head_dim, &mut row[..group * head_dim]);
    let (first, last) = (tokens.start / PAGE_TOKENS, (tokens.end - 1) / PAGE_TOKENS);
    let keys = |page: usize| queries.kv.keys(queries.pages[page], queries.kv_head);
    let values = |page: usize| queries.kv.values(queries.pages[page], queries.kv_head);
    // The keys, then the values, then the keys of the next split.
    let nth = |index: usize| match index.checked_sub(last + 1) {
        None => keys(index),
        Some(index) if first + index <= last => values(first + index),
        Some(index) => match index + first {
            page if page * PAGE_TOKENS < queries.sees(0).end => keys(page),
            _ => values(last),
        },
    };
    let from = |index: usize| std::array::from_fn(|ahead| nth(index + ahead));
    for (page, range) in pages(tokens.clone()) {
        let at = page * PAGE_TOKENS + range.start - tokens.start;
        let mut task = Scores { row, head_dim, range: range.clone(), scores, at, count };
        // SAFETY: the caller vouches for the instructions; the task's tokens end with its range.
        unsafe { on_page::<V>(from(page), head_dim, range.end, room, &mut task) };
    }
    let heads = scores.chunks_exact_mut(count).zip(partial.largest.iter_mut()).zip(partial.sums);
    for ((scores, largest), sum) in heads {
        // SAFETY: the caller vouches for the instructions.
        unsafe { (*largest, *sum) = weights::<V>(scores, spec.scale, spec.soft_cap) };
    }
    partial.values.fill(0.0);
    for (page, range) in pages(tokens.clone()) {
        let at = page * PAGE_TOKENS + range.start - tokens.start;
        let sums = &mut *partial.values;
        let mut task = Values { weights: scores, head_dim, range: range.clone(), at, count, sums };
        let heads = from(last + 1 + page - first);
        // SAFETY: as above.
        unsafe { on_page::<V>(heads, head_dim, range.end, room, &mut task) };
    }
}

/// Turns scores into weights: replaces each by `e^(s - m)`, `s` being the scaled and capped score and
/// `m` the largest of them; gives `m` and the sum.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn weights<V: AttentionLanes>(
    scores: &mut [f32],
    scale: f32,
    cap: Option<f32>,
) -> (f32, f32) {
    let (whole, part) = (scores.len() - scores.len() % V::COUNT, scores.len() % V::COUNT);
    let at = scores.as_mut_ptr();
    // SAFETY: the caller vouches for the instructions; whole registers end within the slice, and what
    // the last part touches ends with it.
    unsafe {
        let scaled = |value: V| {
            let value = value.mul(V::splat(scale));
            cap.map_or(value, |cap| soft_cap(value, cap))
        };
        let unseen = V::splat(f32::NEG_INFINITY);
        let last = scaled(V::load_part(at.add(whole), part)).first(part, unseen);
        let mut largest = last;
        for index in (0..whole).step_by(V::COUNT) {
            let score = scaled(V::load(at.add(index)));
            score.store(at.add(index));
            largest = score.max(largest);
        }
        let largest = largest.largest();
        let base = base(V::splat(largest));
        let mut sum = V::splat(0.0);
        for index in (0..whole).step_by(V::COUNT) {
            let weight = exp(V::load(at.add(index)).sub(base));
            weight.store(at.add(index));
            sum = sum.add(weight);
        }
        let last = exp(last.sub(base));
        last.store_part(at.add(whole), part);
        (largest, sum.add(last.first(part, V::splat(0.0))).sum())
    }
}

/// Scores of the tokens `range` of a page, not scaled yet.
struct Scores<'a> {
    /// `[heads, head_dim]`.
    row: &'a [f32],
    head_dim: usize,
    range: Range<usize>,
    /// `[heads, count]`, of which this page's begin at `at`.
    scores: &'a mut [f32],
    at: usize,
    count: usize,
}

impl<V: AttentionLanes> PageTask<V> for Scores<'_> {
    #[inline(always)]
    unsafe fn run<P: Page<V>>(&mut self, page: P) {
        let heads = self.row.len() / self.head_dim;
        assert!(self.at + self.range.len() <= self.count);
        assert!(self.scores.len() == heads * self.count);
        let mut head = 0;
        while head < heads {
            let several = heads - head >= HEADS;
            let mut token = self.range.start;
            while token < self.range.end {
                let tile = self.range.end - token >= KEYS;
                // SAFETY: the caller vouches for the instructions and the page; heads and tokens end
                // within those there are.
                unsafe {
                    match (several, tile) {
                        (true, true) => self.tile::<V, P, HEADS, KEYS>(page, head, token),
                        (true, false) => self.tile::<V, P, HEADS, 1>(page, head, token),
                        (false, true) => self.tile::<V, P, 1, KEYS>(page, head, token),
                        (false, false) => self.tile::<V, P, 1, 1>(page, head, token),
                    }
                }
                token += if tile { KEYS } else { 1 };
            }
            head += if several { HEADS } else { 1 };
        }
    }
}

impl Scores<'_> {
    /// Products of `Q` heads from `head` on with `T` keys from `token` on. A product is made in one
    /// way, whatever is beside it: lane `l` adds up what is at `l`, `l + COUNT`, and so on, then the
    /// lanes are added.
    ///
    /// # Safety
    /// The machine must have the instructions of `V`; the heads and tokens must be there.
    #[inline(always)]
    unsafe fn tile<V: AttentionLanes, P: Page<V>, const Q: usize, const T: usize>(
        &mut self,
        page: P,
        head: usize,
        token: usize,
    ) {
        let d = self.head_dim;
        // SAFETY: the caller vouches for heads and tokens; scores are asserted in `run`.
        unsafe {
            let row = self.row.as_ptr().add(head * d);
            let mut sums = [[V::splat(0.0); Q]; T];
            let mut i = 0;
            while i + V::COUNT <= d {
                for (t, sums) in sums.iter_mut().enumerate() {
                    page.ask((token + t) * d + i);
                    let key = page.load((token + t) * d + i);
                    for (q, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(row.add(q * d + i)).mul_add(key, *sum);
                    }
                }
                i += V::COUNT;
            }
            if i < d {
                for (t, sums) in sums.iter_mut().enumerate() {
                    let key = page.load_part((token + t) * d + i, d - i);
                    for (q, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load_part(row.add(q * d + i), d - i).mul_add(key, *sum);
                    }
                }
            }
            let scores = self.scores.as_mut_ptr().add(self.at + token - self.range.start);
            for (t, sums) in sums.iter().enumerate() {
                for (q, sum) in sums.iter().enumerate() {
                    *scores.add((head + q) * self.count + t) = sum.sum();
                }
            }
        }
    }
}

/// Adds the values of the tokens `range` of a page, by their weights.
struct Values<'a> {
    /// `[heads, count]`, of which this page's begin at `at`.
    weights: &'a [f32],
    head_dim: usize,
    range: Range<usize>,
    at: usize,
    count: usize,
    /// `[heads, head_dim]`.
    sums: &'a mut [f32],
}

impl<V: AttentionLanes> PageTask<V> for Values<'_> {
    #[inline(always)]
    unsafe fn run<P: Page<V>>(&mut self, page: P) {
        let (d, heads) = (self.head_dim, self.sums.len() / self.head_dim);
        assert!(self.at + self.range.len() <= self.count);
        assert!(self.weights.len() == heads * self.count);
        let mut head = 0;
        while head < heads {
            let several = heads - head >= HEADS;
            let mut i = 0;
            while i < d {
                let left = d - i;
                // SAFETY: the caller vouches for the instructions and the page; heads and numbers end
                // within those there are.
                unsafe {
                    let wide = left >= REGISTERS * V::COUNT;
                    match (several, wide, left >= V::COUNT) {
                        (true, true, _) => self.tile::<V, P, HEADS, REGISTERS>(page, head, i),
                        (false, true, _) => self.tile::<V, P, 1, REGISTERS>(page, head, i),
                        (true, _, true) => self.tile::<V, P, HEADS, 1>(page, head, i),
                        (false, _, true) => self.tile::<V, P, 1, 1>(page, head, i),
                        (true, ..) => self.part::<V, P, HEADS>(page, head, i),
                        (false, ..) => self.part::<V, P, 1>(page, head, i),
                    }
                    i += match (wide, left >= V::COUNT) {
                        (true, _) => REGISTERS * V::COUNT,
                        (_, true) => V::COUNT,
                        _ => left,
                    };
                }
            }
            head += if several { HEADS } else { 1 };
        }
    }
}

impl Values<'_> {
    /// `N` registers from number `i` on, of `Q` heads from `head` on. A sum is one chain, in order of
    /// tokens.
    ///
    /// # Safety
    /// The machine must have the instructions of `V`; the heads and numbers must be there.
    #[inline(always)]
    unsafe fn tile<V: AttentionLanes, P: Page<V>, const Q: usize, const N: usize>(
        &mut self,
        page: P,
        head: usize,
        i: usize,
    ) {
        let d = self.head_dim;
        // SAFETY: the caller vouches for heads and numbers; weights are asserted in `run`.
        unsafe {
            let out = self.sums.as_mut_ptr().add(head * d + i);
            let weights = self.weights.as_ptr().add(head * self.count + self.at);
            let mut sums = [[V::splat(0.0); Q]; N];
            for (n, sums) in sums.iter_mut().enumerate() {
                for (q, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(out.add(q * d + n * V::COUNT));
                }
            }
            for (at, token) in self.range.clone().enumerate() {
                for (n, sums) in sums.iter_mut().enumerate() {
                    page.ask(token * d + i + n * V::COUNT);
                    let value = page.load(token * d + i + n * V::COUNT);
                    for (q, sum) in sums.iter_mut().enumerate() {
                        let weight = V::splat(*weights.add(q * self.count + at));
                        *sum = value.mul_add(weight, *sum);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                for (q, sum) in sums.iter().enumerate() {
                    sum.store(out.add(q * d + n * V::COUNT));
                }
            }
        }
    }

    /// The numbers from `i` to the end of the head, fewer than a register.
    ///
    /// # Safety
    /// As [`Values::tile`].
    #[inline(always)]
    unsafe fn part<V: AttentionLanes, P: Page<V>, const Q: usize>(
        &mut self,
        page: P,
        head: usize,
        i: usize,
    ) {
        let (d, left) = (self.head_dim, self.head_dim - i);
        // SAFETY: as in `tile`.
        unsafe {
            let out = self.sums.as_mut_ptr().add(head * d + i);
            let weights = self.weights.as_ptr().add(head * self.count + self.at);
            for q in 0..Q {
                let mut sum = V::load_part(out.add(q * d), left);
                for (at, token) in self.range.clone().enumerate() {
                    let weight = V::splat(*weights.add(q * self.count + at));
                    sum = page.load_part(token * d + i, left).mul_add(weight, sum);
                }
                sum.store_part(out.add(q * d), left);
            }
        }
    }
}
