"""What is measured, one file per figure: `async def figure(bed, plan) -> Sheet` (figures.py lists them)."""
