//! Which page of the sequence state belongs to whom.
//!
//! A full page can be shared by every sequence that begins with the same tokens. Pages that nobody
//! holds keep their content until they are needed for something else, oldest first, so that a
//! later prompt with the same beginning finds it.

use std::collections::{BTreeMap, HashMap};

use keeve_graph::PageId;

/// Identifies the content of a full page together with everything before it. Never used twice.
pub(crate) type ContentId = u64;

/// What a full page holds: the tokens of a page and what came before them. Compared as a whole,
/// so that two different prefixes are never taken for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Content {
    /// The page before, or the seed of a recipe and adapter for the first page.
    parent: ContentId,
    tokens: Box<[u32]>,
}

#[derive(Debug, Clone, Default)]
struct Page {
    holders: u32,
    content: Option<(ContentId, Content)>,
    /// When it was freed; its key in `free` while it has no holder.
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
    pages: Vec<Page>,
    /// Pages without a holder, by when they were freed.
    free: BTreeMap<u64, PageId>,
    by_content: HashMap<Content, PageId>,
    clock: u64,
    next_content: ContentId,
    /// Whether full pages are registered and found again.
    reuse: bool,
}

/// The parent of first pages.
const ROOT: ContentId = 0;

impl PagePool {
    pub fn new(pages: usize, page_tokens: usize, reuse: bool) -> Self {
        let mut pool = Self {
            page_tokens,
            pages: vec![Page::default(); pages],
            free: BTreeMap::new(),
            by_content: HashMap::new(),
            clock: 0,
            next_content: ROOT + 1,
            reuse,
        };
        for page in 0..pages {
            pool.set_free(page as PageId);
        }
        pool
    }

    /// Pages that nobody holds.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Pages that so many tokens fill or begin.
    pub fn pages_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_tokens)
    }

    /// Pages whose content is the beginning of `tokens`, now held by the result, and the number of
    /// tokens in them. At least one token is left over, since a prompt's last row must run.
    pub fn find_prefix(&mut self, tokens: &[u32]) -> (PageList, usize) {
        let mut list = PageList::default();
        if !self.reuse {
            return (list, 0);
        }
        let usable = tokens.len().saturating_sub(1) / self.page_tokens * self.page_tokens;
        for chunk in tokens[..usable].chunks_exact(self.page_tokens) {
            let parent = list.contents.last().copied().unwrap_or(ROOT);
            let Some(&page) = self.by_content.get(&Content { parent, tokens: chunk.into() }) else {
                break;
            };
            let Some((id, _)) = self.pages[page as usize].content else { break };
            self.hold(page);
            list.pages.push(page);
            list.contents.push(id);
        }
        let found = list.pages.len() * self.page_tokens;
        (list, found)
    }

    /// Makes `list` long enough for `tokens` tokens. `false`, with nothing changed, if there are
    /// not enough free pages.
    pub fn grow(&mut self, list: &mut PageList, tokens: usize) -> bool {
        let missing = self.pages_for(tokens).saturating_sub(list.pages.len());
        if missing > self.free.len() {
            return false;
        }
        for _ in 0..missing {
            let Some((_, page)) = self.free.pop_first() else { return false };
            let state = &mut self.pages[page as usize];
            state.holders = 1;
            if let Some((_, content)) = state.content.take() {
                self.by_content.remove(&content);
            }
            list.pages.push(page);
        }
        true
    }

    /// Registers the pages of `list` that `computed` tokens have filled since the last call.
    pub fn register(&mut self, list: &mut PageList, tokens: &[u32], computed: usize) {
        if !self.reuse {
            return;
        }
        while (list.contents.len() + 1) * self.page_tokens <= computed {
            let index = list.contents.len();
            let parent = list.contents.last().copied().unwrap_or(ROOT);
            let chunk = &tokens[index * self.page_tokens..(index + 1) * self.page_tokens];
            let content = Content { parent, tokens: chunk.into() };
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
            if state.holders == 0 {
                self.set_free(page);
            }
        }
    }

    fn hold(&mut self, page: PageId) {
        let state = &mut self.pages[page as usize];
        if state.holders == 0 {
            self.free.remove(&state.freed);
        }
        state.holders += 1;
    }

    fn set_free(&mut self, page: PageId) {
        self.clock += 1;
        self.pages[page as usize].freed = self.clock;
        self.free.insert(self.clock, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4;

    fn filled(pool: &mut PagePool, tokens: &[u32]) -> PageList {
        let (mut list, found) = pool.find_prefix(tokens);
        assert!(found < tokens.len().max(1));
        assert!(pool.grow(&mut list, tokens.len()));
        pool.register(&mut list, tokens, tokens.len());
        list
    }

    #[test]
    fn a_shared_beginning_is_found_and_a_different_one_is_not() {
        let mut pool = PagePool::new(16, PAGE, true);
        let tokens: Vec<u32> = (0..11).collect();
        let first = filled(&mut pool, &tokens);
        let (second, found) = pool.find_prefix(&tokens);
        assert_eq!((found, &second.pages[..]), (8, &first.pages[..2]));
        // Exactly two pages of tokens: one must be left to run.
        assert_eq!(pool.find_prefix(&tokens[..8]).1, 4);
        let mut other = tokens.clone();
        other[1] = 99;
        assert_eq!(pool.find_prefix(&other).1, 0);
        // The second page's tokens alone are not a beginning.
        assert_eq!(pool.find_prefix(&tokens[4..]).1, 0);
    }

    #[test]
    fn content_survives_release_until_the_page_is_needed() {
        let mut pool = PagePool::new(4, PAGE, true);
        let tokens: Vec<u32> = (0..12).collect();
        let list = filled(&mut pool, &tokens);
        pool.release(list);
        assert_eq!(pool.free_pages(), 4);
        let (again, found) = pool.find_prefix(&tokens);
        assert_eq!((found, pool.free_pages()), (8, 2));
        pool.release(again);
        // Two new pages displace the unused one and the end of the old sequence, not its beginning.
        let other: Vec<u32> = (100..108).collect();
        let list = filled(&mut pool, &other);
        assert_eq!(pool.find_prefix(&tokens).1, 8);
        drop(list);
    }

    #[test]
    fn growing_beyond_what_is_free_changes_nothing() {
        let mut pool = PagePool::new(3, PAGE, true);
        let mut list = PageList::default();
        assert!(pool.grow(&mut list, 8));
        assert!(!pool.grow(&mut list, 13));
        assert_eq!((list.pages.len(), pool.free_pages()), (2, 1));
        pool.release(list);
        assert_eq!(pool.free_pages(), 3);
    }

    #[test]
    fn without_reuse_nothing_is_found() {
        let mut pool = PagePool::new(8, PAGE, false);
        let tokens: Vec<u32> = (0..12).collect();
        let list = filled(&mut pool, &tokens);
        assert_eq!(pool.find_prefix(&tokens).1, 0);
        pool.release(list);
    }
}
