from deploy.prediction.detections import by_image, corners


def test_rows_stay_in_order_and_images_without_any_have_none() -> None:
    rows = [{"image_id": image, "id": number} for number, image in enumerate((2, 1, 2, 9))]
    assert by_image(rows, [1, 2, 3]) == {1: [rows[1]], 2: [rows[0], rows[2]], 3: []}


def test_corners_of_a_box() -> None:
    assert corners([10, 20, 3.5, 4]) == (10, 20, 13.5, 24)
