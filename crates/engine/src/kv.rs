//! Which page of the sequence state belongs to whom.
//!
//! A full page can be shared by every sequence that begins with the same tokens. Pages that nobody
//! holds keep their content until they are needed for something else, oldest first, so that a
//! later prompt with the same beginning finds it.

use std::collections::{BTreeMap, HashMap};

use keeve_graph::PageId;

use crate::images::Placed;
use crate::vision::Hash;

/// Identifies the content of a full page together with everything before it. Never used twice.
pub(crate) type ContentId = u64;

/// What a full page holds: the tokens of a page and what came before them. Compared as a whole,
/// so that two different prefixes are never taken for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Content {
    /// The page before; [`ROOT`] for a first page.
    parent: ContentId,
    tokens: Box<[u32]>,
    /// Images that have tokens in it: where they begin, counted from the page's beginning.
    images: Box<[(isize, Hash)]>,
    /// How many of them, from the front, ran as prompt. 0 where that makes no difference.
    prompt: usize,
}

/// Which pages may be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// None.
    Off,
    /// Pages of the same tokens: they hold the same numbers in whichever phase they ran.
    AnyPhase,
    /// Pages of the same tokens that ran in the same phases.
    SamePhase,
}

/// Tokens of a sequence, of which the first `prompt` are of the prompt phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub ids: &'a [u32],
    pub prompt: usize,
    /// What some of them stand for.
    pub images: &'a [Placed],
}

#[derive(Debug, Clone, Default)]
struct Page {
    holders: u32,
    content: Option<(ContentId, Content)>,
    /// When it was freed; its key in [`PagePool::free`] while it has content and no holder.
    freed: u64,
}

/// The pages a sequence holds, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageList {
    pub pages: Vec<PageId>,
    /// Content of the leading pages that are full and registered.
    contents: Vec<ContentId>,
}

/// All pages of a state.
pub(crate) struct PagePool {
    page_tokens: usize,
    /// Pages there are.
    total: usize,
    /// Those that were ever used, which are the first ones: a large pool costs nothing at first.
    pages: Vec<Page>,
    /// Used pages without a holder and without content.
    empty: Vec<PageId>,
    /// Pages without a holder but with content, by when they were freed.
    free: BTreeMap<u64, PageId>,
    by_content: HashMap<Content, PageId>,
    clock: u64,
    next_content: ContentId,
    reuse: Reuse,
}

/// The parent of first pages.
const ROOT: ContentId = 0;

impl PagePool {
    /// `pages` pages (as many as a [`PageId`] can number, at most) of `page_tokens` tokens each.
    pub fn new(pages: usize, page_tokens: usize, reuse: Reuse) -> Self {
        Self {
            page_tokens,
            total: pages.min(PageId::MAX as usize),
            pages: vec![],
            empty: vec![],
            free: BTreeMap::new(),
            by_content: HashMap::new(),
            clock: 0,
            next_content: ROOT + 1,
            reuse,
        }
    }

    /// Pages there are.
    pub fn total_pages(&self) -> usize {
        self.total
    }

    /// Tokens in a page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// Pages that nobody holds.
    pub fn free_pages(&self) -> usize {
        self.empty.len() + self.free.len() + (self.total - self.pages.len())
    }

    /// Pages that so many tokens fill or begin.
    pub fn pages_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_tokens)
    }

    /// Pages whose content is the beginning of `tokens`, now held by the result, and the number of
    /// tokens in them. At least one token is left over, since the last row must run.
    pub fn find_prefix(&mut self, tokens: Tokens<'_>) -> (PageList, usize) {
        let mut list = PageList::default();
        if self.reuse == Reuse::Off {
            return (list, 0);
        }
        for _ in 0..tokens.ids.len().saturating_sub(1) / self.page_tokens {
            let content = self.next_page(&list, tokens);
            let Some(&page) = self.by_content.get(&content) else { break };
            let Some((id, _)) = self.pages[page as usize].content else { break };
            self.hold(page);
            list.pages.push(page);
            list.contents.push(id);
        }
        let found = list.pages.len() * self.page_tokens;
        (list, found)
    }

    /// The content of the page of `tokens` after those whose content `list` knows.
    fn next_page(&self, list: &PageList, tokens: Tokens<'_>) -> Content {
        let start = list.contents.len() * self.page_tokens;
        let prompt = match self.reuse {
            Reuse::Off | Reuse::AnyPhase => 0,
            Reuse::SamePhase => tokens.prompt.saturating_sub(start).min(self.page_tokens),
        };
        let end = start + self.page_tokens;
        let inside = tokens.images.iter().skip_while(|image| image.tokens.end <= start);
        let inside = inside.take_while(|image| image.tokens.start < end);
        let placed =
            |image: &Placed| (image.tokens.start as isize - start as isize, image.patches.hash);
        Content {
            parent: list.contents.last().copied().unwrap_or(ROOT),
            tokens: tokens.ids[start..end].into(),
            images: inside.map(placed).collect(),
            prompt,
        }
    }

    /// Makes `list` long enough for `tokens` tokens. `false`, with nothing changed, if there are
    /// not enough free pages.
    pub fn grow(&mut self, list: &mut PageList, tokens: usize) -> bool {
        let missing = self.pages_for(tokens).saturating_sub(list.pages.len());
        if missing > self.free_pages() {
            return false;
        }
        list.pages.extend((0..missing).map_while(|_| self.take_page()));
        true
    }

    /// A page for something new: an empty one, else one never used, else the one freed first.
    fn take_page(&mut self) -> Option<PageId> {
        let page = if let Some(page) = self.empty.pop() {
            page
        } else if self.pages.len() < self.total {
            self.pages.push(Page::default());
            (self.pages.len() - 1) as PageId
        } else {
            self.free.pop_first()?.1
        };
        let state = &mut self.pages[page as usize];
        state.holders = 1;
        if let Some((_, content)) = state.content.take() {
            self.by_content.remove(&content);
        }
        Some(page)
    }

    /// Registers the pages of `list` that `computed` tokens have filled since the last call.
    pub fn register(&mut self, list: &mut PageList, tokens: Tokens<'_>, computed: usize) {
        if self.reuse == Reuse::Off {
            return;
        }
        while (list.contents.len() + 1) * self.page_tokens <= computed {
            let index = list.contents.len();
            let content = self.next_page(list, tokens);
            let known = self
                .by_content
                .get(&content)
                .and_then(|&page| self.pages[page as usize].content.as_ref());
            let id = match known {
                // Somebody computed the same beginning at the same time; theirs stays registered.
                Some((id, _)) => *id,
                None => {
                    let id = self.next_content;
                    self.next_content += 1;
                    let page = list.pages[index];
                    self.by_content.insert(content.clone(), page);
                    self.pages[page as usize].content = Some((id, content));
                    id
                }
            };
            list.contents.push(id);
        }
    }

    /// Gives up the pages of `list`.
    pub fn release(&mut self, list: PageList) {
        // The last page is freed first, so that a beginning outlives what followed it.
        for page in list.pages.into_iter().rev() {
            let state = &mut self.pages[page as usize];
            state.holders -= 1;
            if state.holders > 0 {
                continue;
            }
            if state.content.is_none() {
                self.empty.push(page);
            } else {
                self.clock += 1;
                state.freed = self.clock;
                self.free.insert(self.clock, page);
            }
        }
    }

    /// Adds a holder to a page with content.
    fn hold(&mut self, page: PageId) {
        let state = &mut self.pages[page as usize];
        if state.holders == 0 {
            self.free.remove(&state.freed);
        }
        state.holders += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4;

    /// All of `ids` as a prompt.
    fn prompt(ids: &[u32]) -> Tokens<'_> {
        Tokens { ids, prompt: ids.len(), images: &[] }
    }

    fn filled(pool: &mut PagePool, ids: &[u32]) -> PageList {
        let (mut list, found) = pool.find_prefix(prompt(ids));
        assert!(found < ids.len().max(1));
        assert!(pool.grow(&mut list, ids.len()));
        pool.register(&mut list, prompt(ids), ids.len());
        list
    }

    #[test]
    fn a_shared_beginning_is_found_and_a_different_one_is_not() {
        let mut pool = PagePool::new(16, PAGE, Reuse::AnyPhase);
        let tokens: Vec<u32> = (0..11).collect();
        let first = filled(&mut pool, &tokens);
        let (second, found) = pool.find_prefix(prompt(&tokens));
        assert_eq!((found, &second.pages[..]), (8, &first.pages[..2]));
        // Exactly two pages of tokens: one must be left to run.
        assert_eq!(pool.find_prefix(prompt(&tokens[..8])).1, 4);
        let mut other = tokens.clone();
        other[1] = 99;
        assert_eq!(pool.find_prefix(prompt(&other)).1, 0);
        // The second page's tokens alone are not a beginning.
        assert_eq!(pool.find_prefix(prompt(&tokens[4..])).1, 0);
    }

    #[test]
    fn content_survives_release_until_the_page_is_needed() {
        let mut pool = PagePool::new(4, PAGE, Reuse::AnyPhase);
        let tokens: Vec<u32> = (0..12).collect();
        let list = filled(&mut pool, &tokens);
        pool.release(list);
        assert_eq!(pool.free_pages(), 4);
        let (again, found) = pool.find_prefix(prompt(&tokens));
        assert_eq!((found, pool.free_pages()), (8, 2));
        pool.release(again);
        // Two new pages displace the unused one and the end of the old sequence, not its beginning.
        let other: Vec<u32> = (100..108).collect();
        let list = filled(&mut pool, &other);
        assert_eq!(pool.find_prefix(prompt(&tokens)).1, 8);
        drop(list);
    }

    #[test]
    fn growing_beyond_what_is_free_changes_nothing() {
        let mut pool = PagePool::new(3, PAGE, Reuse::AnyPhase);
        let mut list = PageList::default();
        assert!(pool.grow(&mut list, 8));
        assert!(!pool.grow(&mut list, 13));
        assert_eq!((list.pages.len(), pool.free_pages()), (2, 1));
        pool.release(list);
        assert_eq!(pool.free_pages(), 3);
    }

    #[test]
    fn without_reuse_nothing_is_found() {
        let mut pool = PagePool::new(8, PAGE, Reuse::Off);
        let tokens: Vec<u32> = (0..12).collect();
        let list = filled(&mut pool, &tokens);
        assert_eq!(pool.find_prefix(prompt(&tokens)).1, 0);
        pool.release(list);
    }

    #[test]
    fn phases_tell_contents_apart_only_where_they_matter() {
        let ids: Vec<u32> = (0..13).collect();
        // Six tokens of prompt: the first page is all prompt, the second half, the third not.
        let ran = Tokens { ids: &ids, prompt: 6, images: &[] };
        for (reuse, found) in [(Reuse::AnyPhase, 12), (Reuse::SamePhase, 4)] {
            let mut pool = PagePool::new(16, PAGE, reuse);
            let mut list = PageList::default();
            assert!(pool.grow(&mut list, ids.len()));
            pool.register(&mut list, ran, ids.len());
            assert_eq!(pool.find_prefix(prompt(&ids)).1, found, "{reuse:?}");
            assert_eq!(pool.find_prefix(ran).1, 12, "{reuse:?}");
        }
    }

    /// An image's tokens look like those of any other of its size.
    #[test]
    fn images_tell_contents_apart() {
        let ids = [7; 13];
        let image = |tokens, value| Placed {
            tokens,
            patches: std::sync::Arc::new(keeve_image::Patches::new(vec![value], [1, 1, 1])),
            features: None,
        };
        fn with<'a>(ids: &'a [u32], images: &'a [Placed]) -> Tokens<'a> {
            Tokens { ids, prompt: ids.len(), images }
        }
        let mut pool = PagePool::new(16, PAGE, Reuse::AnyPhase);
        // From the middle of the second page to the beginning of the third.
        let images = [image(6..9, 1.0)];
        let mut list = PageList::default();
        assert!(pool.grow(&mut list, ids.len()));
        pool.register(&mut list, with(&ids, &images), ids.len());
        let mut found = |images: &[Placed]| pool.find_prefix(with(&ids, images)).1;
        assert_eq!(found(&images), 12);
        assert_eq!(found(&[image(6..9, 2.0)]), 4);
        assert_eq!(found(&[image(5..9, 1.0)]), 4);
        assert_eq!(found(&[image(6..9, 1.0), image(9..10, 1.0)]), 8);
        assert_eq!(found(&[image(6..9, 1.0), image(12..13, 1.0)]), 12);
        assert_eq!(found(&[]), 4);
    }

    #[test]
    fn pages_without_content_are_used_again_before_fresh_ones() {
        let mut pool = PagePool::new(usize::MAX, PAGE, Reuse::AnyPhase);
        let list = filled(&mut pool, &[1, 2, 3, 4, 5, 6]);
        let last = list.pages[1];
        pool.release(list);
        let list = filled(&mut pool, &[9]);
        assert_eq!(list.pages, [last]);
        pool.release(list);
        assert_eq!((pool.pages.len(), pool.free_pages()), (2, u32::MAX as usize));
    }

    #[test]
    fn a_beginning_computed_twice_is_registered_once() {
        let mut pool = PagePool::new(8, PAGE, Reuse::AnyPhase);
        let ids: Vec<u32> = (0..9).collect();
        let (mut first, mut second) = (PageList::default(), PageList::default());
        assert!(pool.grow(&mut first, 9) && pool.grow(&mut second, 9));
        pool.register(&mut first, prompt(&ids), 9);
        pool.register(&mut second, prompt(&ids), 9);
        assert_eq!(pool.by_content.len(), 2);
        let third = pool.find_prefix(prompt(&ids)).0;
        assert_eq!(third.pages, first.pages[..2]);
        for list in [first, second, third] {
            pool.release(list);
        }
        assert_eq!(pool.free_pages(), 8);
        assert_eq!((pool.empty.len(), pool.free.len()), (4, 2));
    }
}
