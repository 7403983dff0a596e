//! Systems of linear equations with few unknowns.

/// Solves linear equations by Gaussian elimination. Each row ends with its right side.
pub(super) fn solve(mut matrix: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = matrix.len();
    for column in 0..size {
        let pivot =
            (column..size).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        matrix.swap(column, pivot);
        let head = matrix[column].clone();
        if head[column].abs() < 1e-14 {
            return None;
        }
        for row in (0..size).filter(|&row| row != column) {
            let factor = matrix[row][column] / head[column];
            for (value, head) in matrix[row].iter_mut().zip(&head) {
                *value -= factor * head;
            }
        }
    }
    Some((0..size).map(|row| matrix[row][size] / matrix[row][row]).collect())
}
