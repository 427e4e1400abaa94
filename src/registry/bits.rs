//! Sets of small numbers, and tables that assign such numbers (slots) to their values.

/// A set of slot numbers, with one bit for each possible number.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn insert(&mut self, slot: usize) {
        let word = slot / 64;
        if self.0.len() <= word {
            self.0.reserve_exact(word + 1 - self.0.len());
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        if let Some(word) = self.0.get_mut(slot / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    pub(super) fn extend(&mut self, others: &Self) {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        self.0.iter_mut().zip(&others.0).for_each(|(word, other)| *word |= other);
    }

    pub(super) fn subtract(&mut self, others: &Self) {
        self.0.iter_mut().zip(&others.0).for_each(|(word, other)| *word &= !other);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Iterates over the slots in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.checked_sub(1)?;
                Some(place * 64 + bit)
            })
        })
    }
}

/// A table that assigns a slot number to each value. Free slots are reused.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn add(&mut self, value: T) -> usize {
        if let Some(slot) = self.free.pop() {
            self.values[slot] = Some(value);
            return slot;
        }
        self.values.push(Some(value));
        self.values.len() - 1
    }

    pub(super) fn free(&mut self, slot: usize) {
        if self.values.get_mut(slot).and_then(Option::take).is_some() {
            self.free.push(slot);
        }
    }

    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.values.get(slot)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.values.get_mut(slot)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().flatten()
    }

    /// How many slots are in use.
    pub(super) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behave_as_a_set() {
        let mut bits = Bits::default();
        [0, 63, 64, 200, 63].into_iter().for_each(|slot| bits.insert(slot));
        bits.remove(64);
        bits.remove(9_999);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 200]);
        let mut more = Bits::default();
        more.insert(1);
        more.extend(&bits);
        assert_eq!(more.iter().collect::<Vec<_>>(), [0, 1, 63, 200]);
        more.subtract(&bits);
        assert_eq!(more.iter().collect::<Vec<_>>(), [1]);
        more.remove(1);
        assert!(more.is_empty() && !bits.is_empty());
    }

    #[test]
    fn free_slots_are_reused() {
        let mut slots = Slots::default();
        assert_eq!([slots.add("a"), slots.add("b"), slots.add("c")], [0, 1, 2]);
        slots.free(1);
        slots.free(1);
        assert_eq!((slots.get(1), slots.len()), (None, 2));
        assert_eq!([slots.add("d"), slots.add("e")], [1, 3]);
        assert_eq!(slots.iter().copied().collect::<String>(), "adce");
    }
}
