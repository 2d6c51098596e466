"""What the network is given, pixel by pixel, and the way back to the image's own coordinates."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from deploy.contract import MAX_PIXELS, Preprocessing
from deploy.errors import DataError
from deploy.prediction import guard, image_files
from deploy.prediction.preprocess import apply, fit, fit_masks, place

PLAIN = Preprocessing(height=64, width=64, mean=(0, 0, 0), std=(1, 1, 1))


def load_image(source: Path | bytes) -> NDArray[np.uint8]:
    return image_files.load_image(source, PLAIN)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(*rows: list[Any], mode: str = "RGB") -> Image.Image:
    flat = [value for row in rows for value in row]
    image = Image.new(mode, (len(rows[0]), len(rows)))
    image.putdata(flat)
    return image


def png(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestWhatFilesHold:
    def test_color_is_kept(self) -> None:
        loaded = load_image(encoded(pixels([(1, 2, 3), (250, 128, 0)])))
        assert loaded.dtype == np.uint8
        assert loaded.tolist() == [[[1, 2, 3], [250, 128, 0]]]

    def test_grey_is_repeated(self) -> None:
        assert load_image(encoded(pixels([0, 77, 255], mode="L"))).tolist() == [[[0] * 3, [77] * 3, [255] * 3]]

    def test_black_and_white(self) -> None:
        assert load_image(encoded(pixels([0, 255], mode="1"))).tolist() == [[[0] * 3, [255] * 3]]

    def test_sixteen_bits_are_scaled_not_clipped(self) -> None:
        gray = Image.fromarray(np.array([[0, 257, 1000, 32896, 65535]], dtype=np.uint16))
        assert load_image(encoded(gray))[0, :, 0].tolist() == [0, 1, 4, 128, 255]
        assert load_image(encoded(gray, "TIFF"))[0, :, 2].tolist() == [0, 1, 4, 128, 255]

    def test_palette(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putdata([1, 0])
        assert load_image(encoded(image)).tolist() == [[[200, 100, 50], [10, 20, 30]]]

    @pytest.mark.parametrize(("transparency", "second"), [(1, [0, 0, 0]), (b"\xff\x80", [100, 50, 25])])
    def test_palette_with_transparency_lies_over_black(self, transparency: int | bytes, second: list[int]) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putdata([0, 1])
        assert load_image(encoded(image, transparency=transparency)).tolist() == [[[10, 20, 30], second]]

    def test_alpha_lies_over_black(self) -> None:
        image = pixels([(255, 255, 255, 128), (9, 8, 7, 255), (255, 0, 0, 0)], mode="RGBA")
        assert load_image(encoded(image)).tolist() == [[[128] * 3, [9, 8, 7], [0, 0, 0]]]

    def test_grey_with_alpha_lies_over_black(self) -> None:
        assert load_image(encoded(pixels([(200, 0), (200, 255)], mode="LA"))).tolist() == [[[0] * 3, [200] * 3]]

    def test_cmyk_is_converted(self) -> None:
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
        loaded = load_image(encoded(image, "JPEG", quality=95))
        assert np.abs(loaded.astype(int) - [255, 0, 0]).max() <= 3

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize(
        ("orientation", "expected"),
        [
            (1, [[1, 2, 3], [4, 5, 6]]),
            (2, [[3, 2, 1], [6, 5, 4]]),
            (3, [[6, 5, 4], [3, 2, 1]]),
            (4, [[4, 5, 6], [1, 2, 3]]),
            (5, [[1, 4], [2, 5], [3, 6]]),
            (6, [[4, 1], [5, 2], [6, 3]]),
            (7, [[6, 3], [5, 2], [4, 1]]),
            (8, [[3, 6], [2, 5], [1, 4]]),
            (9, [[1, 2, 3], [4, 5, 6]]),
        ],
    )
    def test_the_cameras_rotation_is_applied_and_told(self, orientation: int, expected: list[list[int]], kind: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(pixels([1, 2, 3], [4, 5, 6], mode="L"), kind, exif=exif)
        with image_files.opened(content, PLAIN) as image:
            assert image_files.upright_size(image) == (len(expected[0]), len(expected))
            found, undone = image_files.decode(image, PLAIN)
        assert (found[..., 1].tolist(), undone) == (expected, orientation if orientation < 9 else 1)
        assert load_image(content)[..., 1].tolist() == expected

    def test_damaged_exif_is_no_damaged_image(self) -> None:
        assert load_image(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\x00\x00nonsense")).shape == (8, 8, 3)

    def test_an_animation_gives_its_first_frame(self) -> None:
        frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
        assert load_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [255, 0, 0]


class TestWhatIsRefused:
    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone\.png: cannot be read as an image \(No such file"):
            load_image(tmp_path / "gone.png")

    def test_not_an_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_text("hello")
        with pytest.raises(DataError, match=r"a\.jpg: not an image that can be read; allowed: JPEG, PNG"):
            load_image(tmp_path / "a.jpg")

    def test_what_git_lfs_leaves_in_place_of_an_image(self, tmp_path: Path) -> None:
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        (tmp_path / "a.jpg").write_bytes(pointer)
        with pytest.raises(DataError, match=r"a\.jpg: Git LFS's note about the image, not the image; run: git lfs pull"):
            load_image(tmp_path / "a.jpg")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_truncated(self, kind: str) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        whole = encoded(Image.fromarray(noise), kind)
        assert load_image(whole).shape == (64, 64, 3)
        with pytest.raises(DataError, match="image of") as error:
            load_image(whole[: len(whole) // 2])
        assert "\n" not in str(error.value)

    def test_empty(self) -> None:
        with pytest.raises(DataError, match="image of 0 bytes"):
            load_image(b"")

    @pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 20_000, 60_000])
    def test_a_decompression_bomb(self, side: int) -> None:
        with pytest.raises(DataError, match="cut it into tiles"):
            load_image(png(side, side))

    def test_pixels_of_unknown_range(self) -> None:
        with pytest.raises(DataError, match="pixels from 0 to 70000 have no known range"):
            load_image(encoded(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF"))
        with pytest.raises(DataError, match="floating-point"):
            load_image(encoded(Image.fromarray(np.array([[0, 0.5]], dtype=np.float32)), "TIFF"))

    def test_formats_that_run_programs(self) -> None:
        with pytest.raises(DataError, match="not an image that can be read"):
            load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


class TestFitting:
    def test_letterbox_centers_and_pads(self) -> None:
        image = np.full((10, 20, 3), 200, dtype=np.uint8)
        fitted, placement = fit(image, Preprocessing(height=64, width=64, pad_value=114))
        assert (placement.scale_x, placement.scale_y, placement.left, placement.top) == (3.2, 3.2, 0, 16)
        assert (fitted[16:48] == 200).all()
        assert (fitted[:16] == 114).all()
        assert (fitted[48:] == 114).all()

    def test_the_odd_line_of_padding_is_below(self) -> None:
        fitted, placement = fit(np.full((63, 64, 3), 9, dtype=np.uint8), PLAIN)
        assert placement.top == 0
        assert (fitted[:63] == 9).all()
        assert (fitted[63] == 114).all()

    def test_stretch_fills(self) -> None:
        fitted, placement = fit(np.full((10, 20, 3), 5, dtype=np.uint8), Preprocessing(height=64, width=32, resize="stretch"))
        assert fitted.shape == (64, 32, 3)
        assert (fitted == 5).all()
        assert (placement.scale_x, placement.scale_y) == (1.6, 6.4)

    @pytest.mark.parametrize(
        ("size", "network", "expected"),
        [
            ((20, 10), (64, 96), (96, 48)),  # the longer edge limits
            ((12, 10), (64, 96), (77, 64)),  # the shorter edge is 64, the longer 76.8
            ((10, 12), (96, 64), (64, 77)),
            ((10, 12), (64, 96), (53, 64)),  # a portrait in a landscape input: its height limits
            ((200, 100), (64, 64), (64, 32)),
            ((64, 64), (64, 64), (64, 64)),
        ],
    )
    def test_shortest_edge_fits_at_the_top_left(self, size: tuple[int, int], network: tuple[int, int], expected: tuple[int, int]) -> None:
        preprocessing = Preprocessing(height=network[0], width=network[1], resize="shortest_edge", pad_value=7)
        fitted, placement = fit(np.full((size[1], size[0], 3), 200, dtype=np.uint8), preprocessing)
        width, height = expected
        assert (placement.left, placement.top) == (0, 0)
        assert placement.fitted == expected
        assert (fitted[:height, :width] == 200).all()
        assert (fitted[height:] == 7).all()
        assert (fitted[:, width:] == 7).all()

    def test_shortest_edge_scales_as_torchvisions_detectors_do(self) -> None:
        transform = GeneralizedRCNNTransform(64, 96, [0, 0, 0], [1, 1, 1])
        preprocessing = Preprocessing(height=64, width=96, resize="shortest_edge")
        for width, height in ((100, 90), (97, 60), (640, 480), (333, 250), (90, 33), (48, 40)):
            theirs = transform([torch.zeros(3, height, width)])[0].image_sizes[0]
            ours = place(width, height, preprocessing).fitted
            assert max(abs(ours[0] - theirs[1]), abs(ours[1] - theirs[0])) <= 1  # it rounds down, this to the nearest

    def test_shortest_edge_moves_boxes_by_scale_alone(self) -> None:
        placement = place(640, 480, Preprocessing(height=240, width=480, resize="shortest_edge"))
        assert placement.place(np.array([[10.0, 20, 640, 480]])).tolist() == [[5, 10, 320, 240]]
        assert placement.undo(np.array([[5.0, 10, 480, 240]])).tolist() == [[10, 20, 640, 480]]
        assert placement.undo(np.array([[-5.0, 10, 480, 240]]), clip=False).tolist() == [[-10, 20, 960, 480]]

    def test_masks_go_where_the_image_goes(self) -> None:
        image = np.zeros((40, 50, 3), dtype=np.uint8)
        image[10:30, 5:25] = 255
        for resize in ("letterbox", "stretch", "shortest_edge"):
            preprocessing = Preprocessing.model_validate(
                {"height": 64, "width": 96, "resize": resize, "pad_value": 0, "interpolation": "nearest"}
            )
            fitted, placement = fit(image, preprocessing)
            masks = fit_masks(np.stack([image[..., 0] > 0, image[..., 0] == 0]), placement, preprocessing)
            assert masks.shape == (2, 64, 96)
            assert np.array_equal(masks[0], fitted[..., 0] > 0)
            assert masks.sum() == placement.fitted[0] * placement.fitted[1]
        assert fit_masks(np.zeros((0, 40, 50), np.bool_), placement, preprocessing).shape == (0, 64, 96)

    def test_one_pixel(self) -> None:
        fitted, placement = fit(np.full((1, 1, 3), 77, dtype=np.uint8), PLAIN)
        assert (fitted == 77).all()
        assert placement.undo(np.array([[0.0, 0, 64, 64]])).tolist() == [[0, 0, 1, 1]]

    def test_a_very_wide_image_keeps_a_line(self) -> None:
        fitted, placement = fit(np.full((1, 9000, 3), 255, dtype=np.uint8), PLAIN)
        assert [int(row) for row in np.flatnonzero((fitted == 255).all(axis=(1, 2)))] == [31]
        assert placement.undo(placement.place(np.array([[100.0, 0, 8000, 1]]))) == pytest.approx(np.array([[100, 0, 8000, 1]]))

    def test_nearest_keeps_values(self) -> None:
        image = np.zeros((2, 2, 3), dtype=np.uint8)
        image[0, 0] = 255
        fitted, _ = fit(image, Preprocessing(height=32, width=32, interpolation="nearest"))
        assert (fitted[:16, :16] == 255).all()
        assert (fitted[16:] == 0).all()

    def test_values_are_normalized(self) -> None:
        image = np.zeros((32, 32, 3), dtype=np.uint8)
        image[...] = (255, 51, 0)
        preprocessing = Preprocessing(height=32, width=32, mean=(0.5, 0.1, 0.2), std=(0.25, 0.5, 0.1))
        tensor, _ = apply(image, preprocessing)
        assert tensor.dtype == np.float32
        assert tensor.shape == (3, 32, 32)
        assert tensor[:, 3, 4] == pytest.approx([2.0, 0.2, -2.0], abs=1e-6)

    def test_bgr_swaps_channels(self) -> None:
        image = np.zeros((32, 32, 3), dtype=np.uint8)
        image[..., 0] = 255
        tensor, _ = apply(image, PLAIN.model_copy(update={"height": 32, "width": 32, "color": "bgr"}))
        assert tensor[:, 0, 0].tolist() == pytest.approx([0, 0, 1])


class TestPlacement:
    @pytest.mark.parametrize("resize", ["letterbox", "stretch", "shortest_edge"])
    @pytest.mark.parametrize(("width", "height"), [(640, 480), (333, 777), (20_000, 3), (1, 1), (64, 64), (31, 8000)])
    def test_there_and_back(self, resize: str, width: int, height: int) -> None:
        preprocessing = Preprocessing.model_validate({"height": 96, "width": 160, "resize": resize})
        _, placement = fit(np.zeros((height, width, 3), dtype=np.uint8), preprocessing)
        corners = np.sort(np.random.default_rng(0).random((50, 2, 2)), axis=1) * [width, height]
        boxes: NDArray[np.float64] = corners.reshape(-1, 4)
        there = placement.place(boxes)
        assert (there >= 0).all()
        assert (there <= [160, 96, 160, 96]).all()
        assert np.abs(placement.undo(there) - boxes).max() <= 1e-4

    def test_boxes_in_the_padding_are_clipped(self) -> None:
        _, placement = fit(np.zeros((10, 20, 3), dtype=np.uint8), PLAIN)
        assert placement.undo(np.array([[-5, 0, 32, 64]], dtype=np.float32)).tolist() == [[0, 0, 10, 10]]

    def test_no_boxes(self) -> None:
        _, placement = fit(np.zeros((10, 20, 3), dtype=np.uint8), PLAIN)
        assert placement.undo(np.zeros((0, 4), dtype=np.float32)).shape == (0, 4)
        assert placement.place(np.zeros((0, 4))).shape == (0, 4)


class TestTheContractsDecoding:
    def load(self, source: Path | bytes, **options: Any) -> NDArray[np.uint8]:
        return image_files.load_image(source, PLAIN.model_copy(update=options))

    def test_white_becomes_255_and_what_is_above_it_too(self) -> None:
        gray = Image.fromarray(np.array([[0, 8, 9, 2048, 4095, 4096, 65535]], dtype=np.uint16))
        for kind in ("PNG", "TIFF"):
            assert self.load(encoded(gray, kind), white=4095)[0, :, 1].tolist() == [0, 0, 1, 128, 255, 255, 255]

    def test_white_leaves_eight_bits_alone(self) -> None:
        assert self.load(encoded(pixels([(1, 2, 3)])), white=4095).tolist() == [[[1, 2, 3]]]

    def test_signed_values_below_zero_have_no_range(self) -> None:
        signed = Image.fromarray(np.array([[-5, 4000]], dtype=np.int32))
        with pytest.raises(DataError, match="pixels from -5 to 4000 have no known range"):
            self.load(encoded(signed, "TIFF"), white=4095)

    def test_alpha_ignored_shows_the_colors_as_stored(self) -> None:
        image = pixels([(255, 255, 255, 128), (9, 8, 7, 255), (255, 0, 0, 0)], mode="RGBA")
        assert self.load(encoded(image), alpha="ignore").tolist() == [[[255] * 3, [9, 8, 7], [255, 0, 0]]]
        assert self.load(encoded(pixels([(200, 0)], mode="LA")), alpha="ignore").tolist() == [[[200] * 3]]

    def test_the_limit_is_the_contracts_and_names_its_key(self) -> None:
        assert self.load(encoded(Image.new("L", (10, 10))), max_pixels=100).shape == (10, 10, 3)
        with pytest.raises(DataError, match=r"10 x 11 px is more than 100; cut it into tiles or raise data\.preprocessing\.max_pixels"):
            self.load(encoded(Image.new("L", (10, 11))), max_pixels=100)
        with pytest.raises(DataError, match=r"or raise serve\.max_pixels"):
            image_files.load_image(encoded(Image.new("L", (10, 11))), PLAIN, max_pixels=100, trusted=False)

    def test_pillows_own_limit_is_neither_met_nor_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
        monkeypatch.setattr(guard, "MAX_PIXELS", 50)
        for kind in ("PNG", "TIFF", "WEBP"):
            assert self.load(encoded(Image.new("RGB", (40, 40)), kind)).shape == (40, 40, 3)
        assert Image.MAX_IMAGE_PIXELS == 50

    def test_heic_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        for source in (tmp_path / "a.jpg", (tmp_path / "a.jpg").read_bytes()):
            with pytest.raises(DataError, match=r"HEIC .* convert it to JPEG or PNG"):
                self.load(source)

    @pytest.mark.skipif("AVIF" not in image_files.FORMATS, reason="this Pillow has no AVIF")
    def test_avif_is_read_from_those_who_are_trusted(self) -> None:
        content = encoded(Image.new("RGB", (16, 16), (200, 30, 30)), "AVIF", quality=95)
        assert np.abs(self.load(content).astype(int) - [200, 30, 30]).max() <= 4
        with pytest.raises(DataError, match="not an image that can be read"):
            image_files.load_image(content, PLAIN, trusted=False)

    def test_a_cameras_jpeg_of_several_pictures_gives_the_first(self) -> None:
        content = encoded(Image.new("RGB", (16, 16), "white"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
        assert Image.open(io.BytesIO(content)).format == "MPO"
        assert self.load(content).min() == 255

    def test_many_scans_are_refused_in_it_too(self) -> None:
        content = encoded(Image.new("RGB", (16, 16)), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
        with pytest.raises(DataError, match="more than 100 scans"):
            image_files.load_image(content + b"\xff\xda" * 101, PLAIN, trusted=False)
