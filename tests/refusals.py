"""What a test asks of an error."""

import pytest


def assert_refuses(call, raises, says):
    with pytest.raises(raises) as caught:
        call()
    assert caught.type is raises
    message = str(caught.value)
    missing = [part for part in says if part not in message]
    assert not missing, f"{missing} not in {message!r}"
