package scale

import "math"

// A Fit is the line that is closest to some points: Base + Each·x.
type Fit struct {
	Base, Each float64
	Residual   float64 // the largest distance of a point from the line, as a share of the largest y
}

// fit fits a line by linear least squares.
func fit(x, y []float64) (f Fit) {
	n := float64(len(x))
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx, sy = sx+x[i], sy+y[i]
		sxx, sxy = sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	f.Each = (n*sxy - sx*sy) / (n*sxx - sx*sx)
	f.Base = (sy - f.Each*sx) / n
	largest := 0.0
	for i := range x {
		f.Residual = max(f.Residual, math.Abs(y[i]-f.At(x[i])))
		largest = max(largest, math.Abs(y[i]))
	}
	if largest > 0 {
		f.Residual /= largest
	}
	return f
}

// At is the value at x.
func (f Fit) At(x float64) float64 { return f.Base + f.Each*x }
