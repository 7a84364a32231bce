from est_cli.common.wrapping import at_words


def test_lines_go_on_between_words_below_their_beginning() -> None:
    assert at_words("data      stdlib: 2,776,105 training tokens, 177,018 held out", 40) == (
        "data      stdlib: 2,776,105 training\n          tokens, 177,018 held out"
    )
    assert at_words("loss 6.5 -> 6.4 at step 1,234", 26) == "loss 6.5 -> 6.4 at step\n  1,234"


def test_what_fits_and_what_cannot_be_broken_stays() -> None:
    assert at_words("    indented\n\n  code  with  spaces", 40) == "    indented\n\n  code  with  spaces"
    path = "outputs/" + "x" * 50
    assert at_words(f"see {path} for it", 20) == f"see\n  {path}\n  for it"
