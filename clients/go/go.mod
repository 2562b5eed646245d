module ratoon

go 1.19
