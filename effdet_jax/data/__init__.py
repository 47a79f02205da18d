"""Images and boxes from files to batches. numpy only: worker processes start no device."""
