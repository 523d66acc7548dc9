"""Operations on ragged batches that the steps are made of."""
