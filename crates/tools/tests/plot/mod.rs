//! A plot as pixels, read by another implementation than wrote it.

use std::io::Cursor;

pub(crate) struct Plot {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// `(height, width, 3)`
    pixels: Vec<u8>,
}

impl Plot {
    pub(crate) fn read(bytes: &[u8]) -> Plot {
        let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut buffer).unwrap();
        let samples = info.color_type.samples();
        let pixels = buffer.chunks(samples).flat_map(|pixel| pixel[..3].to_vec()).collect();
        Plot { width: info.width as usize, height: info.height as usize, pixels }
    }

    fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    fn is_dark(&self, x: usize, y: usize) -> bool {
        self.at(x, y).iter().all(|&value| value < 128)
    }

    /// Pixels near matplotlib's first colour, `#1f77b4`.
    pub(crate) fn blue(&self) -> usize {
        let near =
            |pixel: [u8; 3]| pixel[0] < 80 && (90..150).contains(&pixel[1]) && pixel[2] > 150;
        (0..self.height)
            .flat_map(|y| (0..self.width).map(move |x| (x, y)))
            .filter(|&(x, y)| near(self.at(x, y)))
            .count()
    }

    /// Dark pixels below, left of and above the frame of the axes, which is the first and the last row and column that is dark for
    /// half of its length. Ticks of the frame (up to 5 pixels) do not count.
    pub(crate) fn beside_axes(&self) -> (usize, usize, usize) {
        const TICKS: usize = 6;
        let row =
            |&y: &usize| (0..self.width).filter(|&x| self.is_dark(x, y)).count() > self.width / 2;
        let column =
            |&x: &usize| (0..self.height).filter(|&y| self.is_dark(x, y)).count() > self.height / 2;
        let top = (0..self.height).find(row).expect("a frame");
        let bottom = (0..self.height).rev().find(row).expect("a frame");
        let left = (0..self.width).find(column).expect("a frame");
        let count = |xs: std::ops::Range<usize>, ys: std::ops::Range<usize>| {
            xs.flat_map(|x| ys.clone().map(move |y| (x, y)))
                .filter(|&(x, y)| self.is_dark(x, y))
                .count()
        };
        (
            count(0..self.width, bottom + TICKS..self.height),
            count(0..left.saturating_sub(TICKS), 0..self.height),
            count(0..self.width, 0..top.saturating_sub(TICKS)),
        )
    }
}
