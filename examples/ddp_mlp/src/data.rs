//! Handwritten digits: 1797 images of 8 by 8 pixels, shipped in `data/`.

use candle_core::{Device, Result, Tensor};

/// A row: 64 pixels of 0 to 16, then the digit.
static DIGITS: &[u8] = include_bytes!("../data/digits.bin");

/// Pixels of an image, which is what the model takes.
pub const PIXELS: usize = 64;
/// Digits, which are what it tells apart.
pub const CLASSES: usize = 10;

const ROW: usize = PIXELS + 1;
const BRIGHTEST: f32 = 16.0;
/// One row in this many is for the test alone.
const TEST_EVERY: usize = 5;

/// Images and the digits they show.
#[derive(Clone, Debug)]
pub struct Rows {
    /// `f32`, 0 to 1: a row of [`PIXELS`] for each image.
    pub images: Tensor,
    /// `u32`: one for each image.
    pub digits: Tensor,
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.digits.elem_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows at `places`, in that order.
    pub fn pick(&self, places: &[u32]) -> Result<Self> {
        let places = Tensor::from_slice(places, places.len(), self.digits.device())?;
        Ok(Self { images: self.images.index_select(&places, 0)?, digits: self.digits.index_select(&places, 0)? })
    }
}

/// The images to train with, and those to test with. The same on every rank.
pub fn load(device: &Device) -> Result<(Rows, Rows)> {
    let (test, train): (Vec<_>, Vec<_>) =
        DIGITS.chunks_exact(ROW).enumerate().partition(|(row, _)| row % TEST_EVERY == 0);
    Ok((rows(&train, device)?, rows(&test, device)?))
}

fn rows(rows: &[(usize, &[u8])], device: &Device) -> Result<Rows> {
    let pixels: Vec<f32> =
        rows.iter().flat_map(|(_, row)| row[..PIXELS].iter().map(|&pixel| f32::from(pixel) / BRIGHTEST)).collect();
    let digits: Vec<u32> = rows.iter().map(|(_, row)| u32::from(row[PIXELS])).collect();
    Ok(Rows {
        images: Tensor::from_vec(pixels, (rows.len(), PIXELS), device)?,
        digits: Tensor::from_vec(digits, rows.len(), device)?,
    })
}

/// The part of a global batch that is a rank's: ranks take turns, so that their parts differ by nothing but the rows.
pub fn share(batch: &[u32], rank: usize, ranks: usize) -> Vec<u32> {
    batch.iter().copied().skip(rank).step_by(ranks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_there_once() {
        assert_eq!(DIGITS.len(), 1797 * ROW);
        let (train, test) = load(&Device::Cpu).unwrap();
        assert_eq!((train.len(), test.len()), (1437, 360));
        let brightest = train.images.max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(brightest, 1.0);
        for rows in [train, test] {
            let mut counts = [0; CLASSES];
            rows.digits.to_vec1::<u32>().unwrap().iter().for_each(|&digit| counts[digit as usize] += 1);
            assert!(counts.iter().all(|&count| count > rows.len() / CLASSES / 2), "{counts:?}");
        }
    }

    #[test]
    fn shares_make_up_the_batch() {
        let batch: Vec<u32> = (100..164).collect();
        for ranks in [1, 2, 4, 8] {
            let shares: Vec<_> = (0..ranks).map(|rank| share(&batch, rank, ranks)).collect();
            assert!(shares.iter().all(|share| share.len() == 64 / ranks));
            let mut all = shares.concat();
            all.sort_unstable();
            assert_eq!(all, batch);
        }
    }
}
